"""Link-only stand-ins for Ascend's CANN libraries, from the symbols that a MindSpore wheel wants.

MindSpore's Ascend plugin contains its whole graph compiler and kernel selector, and loads wherever
its symbols resolve. Here every function it imports exists and returns 0; the few whose result
matters describe a machine of eight 64 GB devices. Nothing can run with them, and nothing is meant
to: `tools/ascend_kernels.py` compiles graphs and reads which kernels were selected.
"""

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

# Their results decide whether the plugin goes on; everything else returns 0.
DEVICE_C = r"""
static char object[65536];
const char *aclrtGetSocName(void) { return "Ascend910B1"; }
const char *aclGetRecentErrMsg(void) { return ""; }
int aclrtGetDeviceCount(unsigned *count) { *count = 8; return 0; }
int aclrtGetRunMode(int *mode) { *mode = 1; return 0; }
int aclrtGetMemInfo(int kind, unsigned long *left, unsigned long *all) {
    *left = 60UL << 30; *all = 64UL << 30; return 0;
}
int aclrtCreateContext(void **context, int device) { *context = object; return 0; }
int aclrtCreateEventWithFlag(void **event, unsigned flag) { *event = object; return 0; }
int aclrtCreateStreamWithConfig(void **stream, unsigned priority, unsigned flag) {
    *stream = object; return 0;
}
unsigned long aclDataTypeSize(int type) { return 4; }
void *aclCreateTensorDesc(void) { return object; }
void *aclCreateDataBuffer(void *data, unsigned long size) { return object; }
void *aclopCreateAttr(void) { return object; }
void *aclmdlCreateDataset(void) { return object; }
/* An empty std::map, into which the plugin's static initialisers register error texts. */
struct tree { long compare, colour; void *parent, *left, *right; long count, rest[16]; };
static struct tree texts = {0, 0, 0, &texts.colour, &texts.colour, 0, {0}};
void *_ZN2ge13StatusFactory8InstanceEv(void) { return &texts; }
"""
DEVICE_NAMES = set(re.findall(r"\b(acl\w+|_ZN2ge13StatusFactory8InstanceEv)\(", DEVICE_C))

# Loaded by name while the plugin runs, so that no list of needed libraries mentions them.
LOADED_LATER = (
    "libacl_op_compiler.so",
    "libacl_tdt_channel.so",
    "libacl_tdt_queue.so",
    "libascend_hal.so",
    "libc_sec.so",
    "libmsprofiler.so",
    "libnnopbase.so",
    "libplatform.so",
    "libruntime.so",
    "libshmem.so",
)
HUGE_MEMORY = (
    "InitHugeMemThreadLocal",
    "UnInitHugeMemThreadLocal",
    "ReleaseHugeMem",
    "InitPTACacheThreadLocal",
    "SetPTAHashKey",
    "CanUsePTACache",
    "PTAGetExecCache",
)

SYSTEM_LIBRARY = re.compile(r"^(lib(c|m|dl|rt|z|pthread|gomp|gcc_s|stdc\+\+)|ld-linux.*)\.so")
# Undefined symbols that the C and C++ libraries or Python will resolve.
SYSTEM_SYMBOL = re.compile(
    r"^(_ITM|__gmon|__cxa|__gcov|_?Py|dl(open|sym|close|error|addr)$"
    r"|_ZN?K?S[sta]|_ZTH|_ZN[0-9]*gnu_cxx|_ZN4absl)"
)
# What the plugin looks up by name with dlsym.
LOOKED_UP = re.compile(r"^(acl(?:rt|op|mdl|prof|tdt)?|Hccl|Hcom|rt)[A-Z]\w+$")


def build(site_packages: Path, folder: Path) -> None:
    """Write the libraries into `folder`/cann/lib64 and Python's part into `folder`/python.

    Needs gcc, nm, readelf and strings on x86-64 Linux; takes about 20 seconds and 10 MB.

    Raises:
        FileNotFoundError: MindSpore's Ascend plugin is not below `site_packages`.
        subprocess.CalledProcessError: one of the programs failed.
    """
    libraries = folder / "cann" / "lib64"  # the plugin derives CANN's root from these names
    libraries.mkdir(parents=True, exist_ok=True)
    root = site_packages / "mindspore" / "lib"
    plugin = [root / "plugin/libmindspore_ascend.so.2", root / "plugin/libmindspore_ops_ascend.so"]
    for path in plugin:
        if not path.is_file():
            raise FileNotFoundError(f"This MindSpore has no Ascend plugin: {path}.")
    plugin += [root / "libmindspore_ge_backend.so", *sorted((root / "plugin/ascend").rglob("*.so"))]
    shipped = [path for path in (root.parent).rglob("*.so*") if "_akg" not in path.parts]

    words = {word for path in plugin if "internal" not in path.name for word in _strings(path, 6)}
    looked_up = {word for word in words if LOOKED_UP.match(word)}
    device = (_missing_symbols(plugin, shipped) | looked_up) - DEVICE_NAMES
    kernels = _kernel_functions(root, words)
    for name in sorted(_needed_libraries(plugin, shipped) | set(LOADED_LATER)):
        if name == "libopapi.so":
            _compile(libraries / name, sorted(kernels))
        else:
            _compile(libraries / name, sorted(device), DEVICE_C)
    module = folder / "python" / "hccl"
    (module / "sys_version").mkdir(parents=True, exist_ok=True)
    (module / "__init__.py").write_text("", encoding="utf-8")
    version = module / "sys_version" / "__init__.py"
    version.write_text("__sys_version__ = '8.5'\n", encoding="utf-8")


def _needed_libraries(plugin: list[Path], shipped: list[Path]) -> set[str]:
    entries = "".join(_run("readelf", "-d", str(path)) for path in plugin)
    needed = set(re.findall(r"NEEDED.*\[(.*?)\]", entries)) - {path.name for path in shipped}
    return {
        name
        for name in needed
        if not SYSTEM_LIBRARY.match(name) and "python" not in name and not name.startswith("_c_")
    }


def _missing_symbols(plugin: list[Path], shipped: list[Path]) -> set[str]:
    wanted = {line.split()[-1] for path in plugin for line in _symbols("--undefined-only", path)}
    defined = {
        line.split()[-1].split("@")[0]
        for path in shipped
        for line in _symbols("--defined-only", path)
    }
    return {name for name in wanted - defined if "@" not in name and not SYSTEM_SYMBOL.match(name)}


def _kernel_functions(root: Path, words: set[str]) -> set[str]:
    """Names of aclnn functions: those in the plugin, and one for every primitive.

    Short names never stand in the binary as text, the compiler writes them as numbers.
    """
    names = {word for word in words if re.match(r"^aclnn[A-Z][A-Za-z0-9]+$", word)}
    for path in (root / "libmindspore_ops.so", root / "plugin/libmindspore_ops_ascend.so"):
        primitives = (word for word in _strings(path, 3) if re.match(r"^[A-Z]\w{2,40}$", word))
        names |= {f"aclnn{word}" for word in primitives if word.isalnum()}
    names |= {"aclnnInit", "aclnnFinalize"}
    return names | {f"{name}GetWorkspaceSize" for name in names} | set(HUGE_MEMORY)


def _compile(target: Path, names: Iterable[str], code: str = "") -> None:
    """A shared library in which every name is a function that returns 0."""
    body = "".join(
        f".globl {name}\n.type {name},@function\n{name}:\nxorl %eax,%eax\nret\n" for name in names
    )
    assembly, c = target.with_suffix(".s"), target.with_suffix(".c")
    stack = '.section .note.GNU-stack,"",@progbits\n'
    assembly.write_text(f".text\n{body}{stack}", encoding="utf-8")
    c.write_text(code, encoding="utf-8")
    options = ("-shared", "-fPIC", f"-Wl,-soname,{target.name}", "-o", str(target))
    _run("gcc", *options, str(assembly), str(c))
    assembly.unlink()
    c.unlink()


def _strings(path: Path, length: int) -> list[str]:
    return _run("strings", "-n", str(length), str(path)).splitlines()


def _symbols(kind: str, path: Path) -> list[str]:
    return [line for line in _run("nm", "-D", kind, str(path)).splitlines() if line.strip()]


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
