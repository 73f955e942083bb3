def recorded_configuration(path):
    return None
