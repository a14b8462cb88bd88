"""The command line: one verb, one function.

Exit codes: 0 all went well, 1 some inputs failed (each is named on stderr), 2 bad usage.
"""

import io
import os
import sys
from collections.abc import Callable

from mrnn.cli.console import Usage, warn
from mrnn.cli.library import duplicates, export, forget, index, search
from mrnn.cli.models import convert, evaluate, reproduce, train_command
from mrnn.cli.parsing import parse
from mrnn.cli.photos import caption, explain, rank, score
from mrnn.cli.serve import serve
from mrnn.workshop import workshop

VERBS: dict[str, Callable[..., int]] = {
    "caption": caption,
    "rank": rank,
    "score": score,
    "explain": explain,
    "evaluate": evaluate,
    "reproduce": reproduce,
    "convert": convert,
    "index": index,
    "search": search,
    "duplicates": duplicates,
    "forget": forget,
    "export": export,
    "serve": serve,
}
HELP = """usage: mrnn VERB ...

  caption PHOTO...                     write captions
  rank PHOTO... --sentences FILE       which sentences fit each photo
  rank PHOTO... --sentence TEXT        which photos fit a sentence
  score --pairs TABLE                  how well captions fit their photos
  explain PHOTO [--out PNG]            what each word of a caption rests on
  index FOLDER                         encode and caption your own photos
  search SENTENCE|PHOTO                find photos among them
  duplicates                           which of them are there more than once
  forget FOLDER                        take them out again; no photo is touched
  export FILE                          write their captions out
  serve                                a web page and a JSON API for all of this
  train RECIPE --data DIR --out DIR    train a model
  evaluate [MODEL] --data DIR          measure a model on a data set
  reproduce TABLE --data DIR           make the papers' tables again
  convert FOLDER                       bring a saved model up to date

mrnn VERB --help tells more; mrnn --version prints the version."""
TRAIN_HELP = """usage: mrnn train RECIPE --data DIR --out DIR [...]

recipes:
{recipes}

mrnn train RECIPE --help lists every option."""


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; the exit code is what the process ends with."""
    arguments = sys.argv[1:] if arguments is None else arguments
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    # NumPy's share of the work is small: its threads take the cores from those of the runtime and of the library.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        if verb in ("", "-h", "--help", "help"):
            print(HELP)
            return 0 if verb else 2
        if verb == "--version":
            import mrnn

            print(f"mrnn {mrnn.__version__}")
            return 0
        for stream, errors in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
            if isinstance(stream, io.TextIOWrapper):
                # UTF-8 whatever the locale; names of files that are none go to pipes byte for byte.
                stream.reconfigure(encoding="utf-8", errors=errors)
        if verb == "train":
            if not rest or rest[0].startswith("-"):
                made = workshop("recipes").RECIPES
                recipes = "\n".join(
                    f"  {name:26} {(make.__doc__ or '').splitlines()[0]}" for name, make in made.items()
                )
                print(TRAIN_HELP.format(recipes=recipes))
                return 0 if rest and rest[0] in ("-h", "--help") else 2
            return train_command(rest[0], rest[1:])
        if verb not in VERBS:
            raise Usage(f"no verb {verb!r}; there are {', '.join((*VERBS, 'train'))}")
        return parse(VERBS[verb], rest, f"mrnn {verb}", None)
    except Usage as error:
        warn(f"error: {error}")
        return 2
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        named = isinstance(error, OSError) and error.filename and error.strerror
        warn(f"error: {error.filename}: {error.strerror.lower()}" if named else f"error: {error}")
        return 1
    except KeyboardInterrupt:
        warn("stopped")
        return 130
    except Exception as error:  # a mistake of ours, or of a library; where it is matters to us alone
        if os.environ.get("MRNN_TRACEBACK"):
            raise
        reason = next(iter(str(error).splitlines()), "")
        warn(f"error: {type(error).__name__}: {reason} (MRNN_TRACEBACK=1 shows where)")
        return 1
