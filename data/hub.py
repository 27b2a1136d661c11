"""What all exchange with the Hub shares: names of repositories, and what went wrong in one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from data.errors import UserError

REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""Names of repositories: user/name."""
_REFUSED = (401, 403)


def check_repo(repo: str) -> str:
    """`repo` itself; UserError where it is not of the form user/name."""
    if not REPO.fullmatch(repo):
        raise UserError(f"--repo: expected user/name, got {repo!r}")
    return repo


@contextmanager
def hub_errors(repo: str, broken: str = "the cache does not hold it") -> Iterator[None]:
    """Tell what the Hub, or the way to it, answers in one line that names `repo`; where the line is `broken`, what follows from that."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, LocalTokenNotFoundError

    # The base class of what the HTTP client raises, whichever client this version of huggingface_hub has.
    line_broke = HfHubHTTPError.__mro__[1]
    try:
        yield
    except HFValidationError as error:
        raise UserError(f"--repo: expected user/name, got {repo!r} ({_one_line(error)})") from error
    except LocalTokenNotFoundError as error:
        raise UserError(f"{repo}: no token to identify you to the Hub; give one in HF_TOKEN, or run `hf auth login`") from error
    except Exception as error:
        # Errors of threads that upload come wrapped, and a file that is not in the cache hides why it could not be fetched.
        cause = error.__cause__ if isinstance(error, (RuntimeError, LocalEntryNotFoundError)) and error.__cause__ else error
        if isinstance(cause, HfHubHTTPError):
            raise UserError(f"{repo}: {_answer(cause)}") from error
        if isinstance(cause, (line_broke, ConnectionError, LocalEntryNotFoundError)):
            raise UserError(f"{repo}: the Hub cannot be reached, or no longer; {broken} ({_one_line(cause)})") from error
        raise


def _answer(error: Exception) -> str:
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in _REFUSED and "Invalid credentials" in str(error):
        return "the Hub refused the token; give a valid one in HF_TOKEN, or run `hf auth login`"
    if isinstance(error, EntryNotFoundError):
        return f"holds no such file ({_one_line(error)})"
    if isinstance(error, RevisionNotFoundError):
        return f"holds no such revision ({_one_line(error)})"
    if isinstance(error, RepositoryNotFoundError):
        return "no such repository on the Hub, or the token in use may not see it"
    if status in _REFUSED:
        return f"the token in use has no right to do this ({_one_line(error)})"
    return f"the Hub refused ({_one_line(error)})"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
