"""The command line. Parses, calls, prints; what is heavy is imported inside the commands."""

import errno
import os
import signal
import sys

from toto import __version__
from toto.cli import data, finetune, models, probes, runs, studies, tokenizers, tracking
from toto.cli.parse import Command
from toto.errors import MediaError, UserError, unknown

# What a machine, and no mistake or bug, does to a run.
_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS, errno.EACCES),
    *(errno.ENODEV, errno.ENXIO, errno.EREMOTEIO, errno.ENOLCK, errno.EFBIG, errno.ECHILD),
    *(errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN),
    *(errno.ENETUNREACH, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED),
    *(errno.ESHUTDOWN, errno.ENOMEM, errno.EMFILE, errno.ENFILE),
}
# A path that was given is a file where a folder is needed, or the other way round.
_PATHS = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR}

COMMANDS: dict[str, Command] = {
    name: command
    for module in (studies, data, tokenizers, runs, models, probes, tracking, finetune)
    for name, command in module.COMMANDS.items()
}


def main() -> None:
    """Run a command. Exit code 2 after a user's mistake, 128 + n after signal n."""
    arguments = sys.argv[1:]
    try:
        _dispatch(arguments)
        sys.stdout.flush()
    except (UserError, MediaError) as error:
        _stop(str(error), 2)
    except FloatingPointError as error:
        _stop(str(error), 1)
    except KeyboardInterrupt:
        _stop("interrupted; run it again to continue", 130)
    except BrokenPipeError:
        # Whoever read it has read enough, as `head` does; what is left to write goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    except OSError as error:
        if error.errno in _PATHS:
            _stop(f"{error.filename}: {error.strerror}", 2)
        if error.errno not in _MACHINE and not isinstance(error, TimeoutError):
            raise
        what = error.strerror or str(error) or type(error).__name__
        where = f": {error.filename}" if error.filename else ""
        _stop(f"{what}{where}; run it again to continue", 1)


def _stop(message: str, code: int) -> None:
    print(f"toto: {message}", file=sys.stderr)
    raise SystemExit(code)


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return
    if arguments[0] == "--version":
        print(f"toto {__version__}")
        return
    for words in (3, 2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            COMMANDS[name](arguments[words:], f"toto {name}")
            return
    same = [name for name in COMMANDS if name.split()[0] == arguments[0]]
    if same:
        raise UserError(f"no command {' '.join(arguments[:3])!r}: there is {', '.join(same)}")
    raise unknown("command", arguments[0], COMMANDS)


def _overview() -> str:
    lines = ["usage: toto COMMAND ...", ""]
    lines += [f"  {name:<24} {command.__doc__}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", "Each command has --help."])
