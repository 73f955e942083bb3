"""The part for the newest diffusers: `newest_diffusers.py SOURCE TARGET INPUT OUTPUT`.

Reads the pipeline SOURCE, samples with the arguments in INPUT (.npz), writes the frames to OUTPUT
(.npz) together with the version of diffusers, and saves the pipeline to TARGET.
"""

import json
import sys

import diffusers
import numpy as np
import torch


def main(source: str, target: str, arguments: str, output: str) -> None:
    pipeline = diffusers.LattePipeline.from_pretrained(source)
    pipeline.set_progress_bar_config(disable=True)
    with np.load(arguments) as file:
        latents, options = torch.from_numpy(file["latents"]), json.loads(str(file["options"]))
    frames = pipeline(**options, latents=latents, output_type="np").frames
    np.savez(output, frames=np.asarray(frames), version=diffusers.__version__)
    pipeline.save_pretrained(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
