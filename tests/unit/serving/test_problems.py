"""Problem documents: a status for every refusal, and nothing of this machine in any of them."""

import pytest

from adapters_store.errors import (
    BackboneUnavailableError,
    EventUnknownError,
    StoreCorruptError,
    StoreFullError,
    StoreUnavailableError,
    StoreUnsupportedError,
)
from serving import errors
from serving.problems import STATUS, problem, refusal
from serving.tokens import TokenFileError

PLACE = "s3://key:word@bucket.internal/srv/store"


@pytest.mark.parametrize(
    "error",
    [
        StoreUnavailableError(PLACE, f"connection to {PLACE} refused"),
        StoreFullError(PLACE, f"no space at {PLACE}"),
        StoreUnsupportedError(PLACE, f"{PLACE} has no put-if-absent"),
        StoreCorruptError(PLACE, f"{PLACE} is no event"),
        EventUnknownError(7, f"kind {PLACE}"),
        BackboneUnavailableError("vit", f"no file {PLACE}"),
        TokenFileError(PLACE, (f"{PLACE} cannot be read",)),
        FileNotFoundError(2, "No such file", PLACE),
        RuntimeError(f"engine at {PLACE} failed"),
        KeyError(PLACE),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_answer_names_a_path_an_address_or_a_store(error):
    answer = refusal(error)

    assert answer.status_code >= 500
    text = answer.body.decode() + repr(answer.headers)
    assert not [part for part in ("s3", "word", "bucket", "srv", "store/") if part in text]


def test_every_refusal_of_serving_has_a_status_of_its_own_or_never_leaves():
    """`ColdError` is between door and engine."""
    classes = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and kind.__module__ == errors.__name__
    ]
    nameless = {kind for kind in classes if not set(kind.__mro__) & set(STATUS)}

    assert nameless == {errors.ServingError, errors.ColdError}


def test_what_may_be_tried_again_says_when():
    for error in (errors.OverloadedError("full", 3), errors.TaskBusyError("digits", 3)):
        assert refusal(error).headers["retry-after"] == "3"
    assert refusal(errors.ClosingError()).headers["retry-after"] == "1"
    for lasting in (
        errors.ReleaseFailedError("t", 3),
        errors.QuarantinedError("t", 3, ("it answered wrongly",)),
    ):
        assert refusal(lasting).headers["retry-after"] == "30"
    assert refusal(errors.UnauthorizedError()).headers["www-authenticate"] == "Bearer"


def test_a_problem_has_the_fields_of_its_document():
    assert problem(errors.DeadlineError(0.5)) == {
        "type": "about:blank",
        "title": "Deadline exceeded",
        "status": 504,
        "code": "deadline",
        "detail": "no answer was possible within 0.5 s",
    }
