"""What a new process has to be told to be like its parent, and how it becomes so."""

import os
import sys
import types

from . import process

__all__ = [
    "_main", "freeze_support", "set_executable", "get_executable", "get_preparation_data", "get_command_line",
    "import_main_path", "prepare",
]  # fmt: skip

WINEXE = False
WINSERVICE = False

_python_exe = None


def set_executable(exe):
    """The interpreter that new processes run."""
    global _python_exe
    from . import _runtime

    _python_exe = os.fsdecode(exe) if exe is not None else None
    _runtime.refresh()


def get_executable():
    """The interpreter that new processes run."""
    return sys.executable if _python_exe is None else _python_exe


def is_forking(argv):
    """Whether this is the command line of a process that was started by `spawn`."""
    return len(argv) >= 2 and argv[1] == "--multiprocessing-fork"


def freeze_support():
    """Nothing: only frozen programs on Windows need it."""


def get_command_line(**kwds):
    """The command line of a new process."""
    from . import _runtime

    return _runtime.command()


_own = []


def own_descriptor(index):
    """The descriptor that came with the start of this process at `index`; the caller's then."""
    return _own[index]


def _pack(name, pickle_object, popen, leave_out=()):
    """What makes a new process like this one, and the object for it that `pickle_object()` gives, as bytes. Descriptors are `popen`'s to pass; `leave_out`
    names what the process shall not have of this one."""
    from . import context
    from .reduction import ForkingPickler

    context.set_spawning_popen(popen)
    try:
        data = {key: value for key, value in get_preparation_data(name).items() if key not in leave_out}
        return bytes(ForkingPickler.dumps(data)) + bytes(pickle_object())
    finally:
        context.set_spawning_popen(None)


def _unpack(payload):
    """In the new process: makes it like its parent, and gives the object."""
    import io

    # The module `pickle` brings `re` and more, which a new interpreter would load for nothing else.
    from _pickle import load

    file = io.BytesIO(payload)
    process.current_process()._inheriting = True
    try:
        prepare(load(file))
        return load(file)
    finally:
        del process.current_process()._inheriting


def _main(payload, descriptors):
    """In the new process: becomes what `payload` says. Gives the exit code."""
    _own[:] = descriptors
    return _unpack(payload)._bootstrap()


def _check_not_importing_main():
    if getattr(process.current_process(), "_inheriting", False):
        raise RuntimeError(
            "A process was to be started while this one, which is new itself, still imports the program's main module. "
            "That would go on for ever: start processes under `if __name__ == '__main__':` only."
        )


def get_preparation_data(name):
    """What makes a new process like this one: name, path, folder, arguments, main module, logging."""
    from . import _runtime, context, util

    _check_not_importing_main()
    data = {
        "log_to_stderr": util._log_to_stderr,
        "authkey": process.current_process().authkey,
        "name": name,
        "sys_path": [process.ORIGINAL_DIR if path == "" and process.ORIGINAL_DIR else path for path in sys.path],
        "sys_argv": sys.argv,
        "orig_dir": process.ORIGINAL_DIR,
        "dir": os.getcwd(),
        "start_method": context._default_context.get_start_method(),
        "installed": _runtime.is_installed(),
    }
    if util._logger is not None:
        data["log_level"] = util._logger.getEffectiveLevel()
    main = sys.modules["__main__"]
    main_name = getattr(getattr(main, "__spec__", None), "name", None)
    if main_name is not None:
        data["init_main_from_name"] = main_name
    elif (path := getattr(main, "__file__", None)) is not None:
        if not os.path.isabs(path) and process.ORIGINAL_DIR is not None:
            path = os.path.join(process.ORIGINAL_DIR, path)
        data["init_main_from_path"] = os.path.normpath(path)
    return data


# The modules that stand for the program's main module here, for as long as they are looked for.
old_main_modules = []


def prepare(data):
    """Makes this process as `data` says."""
    from . import context, util

    if "name" in data:
        process.current_process().name = data["name"]
    if "authkey" in data:
        process.current_process().authkey = data["authkey"]
    if data.get("log_to_stderr"):
        util.log_to_stderr()
    if "log_level" in data:
        util.get_logger().setLevel(data["log_level"])
    if data.get("installed"):
        from . import install

        install()
    if "sys_path" in data:
        sys.path[:] = data["sys_path"]
    if "sys_argv" in data:
        sys.argv = data["sys_argv"]
    if "dir" in data:
        try:
            os.chdir(data["dir"])
        except OSError:
            # The engine has gone there already, if it still has a name or not.
            pass
    if "orig_dir" in data:
        process.ORIGINAL_DIR = data["orig_dir"]
    if "start_method" in data:
        context._force_start_method(data["start_method"])
    if "init_main_from_name" in data:
        _fixup_main_from_name(data["init_main_from_name"])
    elif "init_main_from_path" in data:
        _fixup_main_from_path(data["init_main_from_path"])


def _fixup_main_from_name(name):
    current = sys.modules["__main__"]
    # `python -m package` has a main module without a guard, that does nothing else; and a fork server may have it already.
    if name == "__main__" or name.endswith(".__main__") or getattr(current.__spec__, "name", None) == name:
        return
    import runpy

    _stand_in(lambda: runpy.run_module(name, run_name="__mp_main__", alter_sys=True))


def _fixup_main_from_path(path):
    current = sys.modules["__main__"]
    name = os.path.splitext(os.path.basename(path))[0]
    # IPython's main module is not the program's.
    if name == "ipython" or getattr(current, "__file__", None) == path:
        return
    if path.endswith(".py"):
        return _stand_in(lambda: _run_source(path))
    # Without its name's help: it may be compiled, or an archive.
    import runpy

    _stand_in(lambda: runpy.run_path(path, run_name="__mp_main__"))


def _run_source(path):
    """What `runpy.run_path` does with a source file, without what it imports for other kinds: a third of what a new interpreter has to load."""
    import io

    with io.open_code(path) as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    module = types.ModuleType("__mp_main__")
    module.__dict__.update(__file__=path, __cached__=None, __package__="")
    sys.modules["__mp_main__"] = module
    try:
        exec(code, module.__dict__)
    except BaseException:
        del sys.modules["__mp_main__"]
        raise
    return module


def _stand_in(run):
    """Makes what `run` gives, a module or its contents, the main module: what was pickled as a part of `__main__` is found there."""
    old_main_modules.append(sys.modules["__main__"])
    module = run()
    if isinstance(module, dict):
        contents, module = module, types.ModuleType("__mp_main__")
        module.__dict__.update(contents)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module


def import_main_path(path):
    """Makes the program at `path` the main module, without running what is under its guard."""
    _fixup_main_from_path(path)
