"""Asks a served model about images: batch by batch, patiently, and without one bad image spoiling the others."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kerastl.client.access import Access, read_access
from kerastl.client.address import Address, parse_address
from kerastl.client.replies import (
    INPUT,
    OUTPUTS,
    SIGNATURE,
    Answer,
    Connection,
    NotFound,
    NotOurs,
    NotServed,
    Refused,
    TimedOut,
    Unavailable,
    named,
)
from kerastl.encoded import CONVERTED, SERVED, as_png, find_images, format_of, reason_of
from kerastl.errors import ServingError, UserError
from kerastl.prediction import Prediction, unreadable
from kerastl.progress import Progress
from kerastl.wording import counted

BATCH_IMAGES = 32
BATCH_BYTES = 16 * 2**20
"""Photographs are asked about in smaller batches: over REST a batch is one text, a third longer than its images."""

_LONGEST_WAIT_SECONDS = 4.0


@dataclass(frozen=True)
class Patience:
    """Time limits and retries.

    Attributes:
        timeout_seconds: for sending one batch, and as long again for its answer; over gRPC for both together.
        retries: how often a server that is not there, or has no time, is asked again about the same batch.
        first_wait_seconds: before the first retry; each wait is twice as long as the one before. A server that says that
            it is loading the model is asked again for as long as `timeout_seconds`.
    """

    timeout_seconds: float = 60.0
    retries: int = 4
    first_wait_seconds: float = 0.5


def ask(
    url: str,
    images: Sequence[str],
    *,
    top: int,
    patience: Patience | None = None,
    access: Access | None = None,
    progress: Progress = Progress(),
) -> list[Prediction]:
    """Classify images with a served model.

    Args:
        url: see `parse_address`.
        images: files, folders and glob patterns; see `find_images`.
        top: how many classes to name for each image; a model serves its best five.
        patience: how long to wait for the server.
        access: what lets a client in; without it a token that the environment holds.
        progress: receives notes and progress.

    Returns:
        A prediction for each image, in the order found; those that cannot be read carry their error.

    Raises:
        UserError: the address or the model behind it cannot be used, or no image was found.
        ServingError: the server gave no answer.
    """
    address, patience, access = parse_address(url), patience or Patience(), access or read_access()
    paths = find_images(images, progress)
    predictions: list[Prediction] = []
    converted: Counter[str] = Counter()
    with contextlib.closing(_connect(address, patience.timeout_seconds, access)) as connection:
        asker = _Asker(connection, address, patience, progress)
        with progress.track("predict", len(paths)) as tracker:
            for batch in _batches(paths):
                answers = iter(asker.answers([each.data for each in batch if not each.reason]))
                for each in batch:
                    answer = each.reason or next(answers)
                    predictions.append(
                        unreadable(each.path, answer)
                        if isinstance(answer, str)
                        else Prediction(
                            each.path,
                            *answer.top[0],
                            answer.top[:top],
                            accepted=answer.accepted,
                            labels=answer.labels,
                        )
                    )
                    converted.update([each.converted] if each.converted else [])
                tracker.advance(len(batch))
    if converted:
        parts = ", ".join(f"{count:,} {kind}" for kind, count in converted.most_common())
        progress.warn(f"{counted(converted.total(), 'image')} ({parts}) {CONVERTED}.")
    return predictions


@dataclass(frozen=True)
class _File:
    path: str
    data: bytes = b""
    converted: str = ""
    reason: str = ""


def _batches(paths: Sequence[str]) -> Iterator[list[_File]]:
    """Files in their order, as many as make one request, read when their turn has come."""
    batch: list[_File] = []
    size_bytes = 0
    for path in paths:
        try:
            data = Path(path).read_bytes()
            served = not data or format_of(data) in SERVED
            file = _File(path, data) if served else _File(path, *as_png(data))
        except OSError as error:
            file = _File(path, reason=error.strerror or str(error))
        except ValueError as error:
            file = _File(path, reason=str(error))
        if batch and (len(batch) == BATCH_IMAGES or size_bytes + len(file.data) > BATCH_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(file)
        size_bytes += len(file.data)
    yield batch


def _connect(address: Address, timeout_seconds: float, access: Access) -> Connection:
    if address.is_grpc:
        from kerastl.client.grpc_client import GrpcConnection

        return GrpcConnection(address, timeout_seconds, access)
    from kerastl.client.rest import RestConnection

    return RestConnection(address, timeout_seconds, access)


class _Asker:
    """Knows whether the model behind the server was looked at."""

    def __init__(
        self, connection: Connection, address: Address, patience: Patience, progress: Progress
    ) -> None:
        self._connection, self._address, self._patience, self._progress = (
            connection,
            address,
            patience,
            progress,
        )
        self._looked_at = False

    def answers(self, images: Sequence[bytes]) -> list[Answer | str]:
        """For each image its answer, or why it cannot be read.

        The server refuses a whole batch for one bad image and does not say which: halves of the batch are
        asked about, which finds one bad image among 32 with ten requests more.
        """
        if not images:
            return []
        try:
            return list(self._patiently(images))
        except Refused as refusal:
            self._look_at_the_model()
            if len(images) == 1:
                return [reason_of(str(refusal)) or "refused by the server without a reason"]
            middle = len(images) // 2
            return [*self.answers(images[:middle]), *self.answers(images[middle:])]
        except TimedOut:
            count = "1 image" if len(images) == 1 else f"{len(images)} images"
            raise ServingError(
                f"{self._address} has not answered about {count} in {self._patience.timeout_seconds:g} seconds. Give it more with --timeout, or look at its load."
            ) from None
        except NotFound as error:
            raise UserError(
                f"{self._address} does not exist: {error}. Expected a name, and a version or label if one is given, under "
                "which the server serves a model; its command line or its configuration says them. A server that looks at its "
                "configuration once a minute may learn of a new model so late."
            ) from None
        except NotOurs as error:
            raise self._not_ours(str(error)) from None

    def _patiently(self, images: Sequence[bytes]) -> list[Answer]:
        wait_seconds = self._patience.first_wait_seconds
        left, started = self._patience.retries, time.monotonic()
        while True:
            try:
                return self._connection.answers(images)
            except Unavailable as error:
                if not left:
                    attempts = self._patience.retries + 1
                    raise ServingError(
                        f"{self._address} did not answer in {attempts} attempts, the last time: {error}. Check that the "
                        "server runs and that host and port are its own; in kerastl's source folder `make serve` starts one on this machine."
                    ) from None
                problem = str(error)
                left -= 1
            except NotServed as error:
                is_loading = self._is_loading(error)
                if is_loading and time.monotonic() - started > self._patience.timeout_seconds:
                    raise ServingError(
                        f"{self._address} has been loading for {self._patience.timeout_seconds:g} seconds and is not there "
                        "yet. Give it more with --timeout, or look into the server's log."
                    ) from None
                if not is_loading and not left:
                    raise
                problem = (
                    "the model is still loading" if is_loading else f"no such model, or not yet: {error}"
                )
                left -= not is_loading
            self._progress.note(f"{self._address}: {problem}; asking again in {wait_seconds:g} s")
            time.sleep(wait_seconds)
            wait_seconds = min(2 * wait_seconds, _LONGEST_WAIT_SECONDS)

    def _is_loading(self, error: NotServed) -> bool:
        """True if the server says so; False where it knows nothing of the model, which it may come to know.

        Raises:
            NotFound: it knows the model, and not that version or label of it.
            ServingError: it failed to load what is asked for.
        """
        states = self._connection.states()
        if not states:
            return False
        wanted = [each for each in states if self._address.version in (None, each.version)]
        if any(each.state in ("START", "LOADING") for each in wanted):
            return True
        failed = [each for each in wanted if each.problem]
        if failed:
            raise ServingError(
                f"{self._address} could not be loaded by the server: {failed[-1].problem}. Look into its log; "
                "`kerastl models rollback NAME` publishes the version before anew."
            )
        if wanted and not self._address.label and any(each.state == "AVAILABLE" for each in wanted):
            return True  # since a moment
        raise NotFound(str(error))

    def _look_at_the_model(self) -> None:
        """A model that takes something else refuses every image; its signature says so at once."""
        if self._looked_at:
            return
        self._looked_at = True
        signature = self._connection.signature()
        if signature is None:
            return
        inputs, outputs = signature
        if not inputs and not outputs:
            raise self._not_ours(f"it has no signature '{SIGNATURE}'")
        if inputs != {INPUT} or not set(OUTPUTS) <= outputs:
            raise self._not_ours(f"it takes {named(inputs)} and answers with {named(outputs)}")

    def _not_ours(self, found: str) -> UserError:
        return UserError(
            f"{self._address} does not answer as a model that kerastl exported: {found}. Expected the input '{INPUT}' and "
            f"the outputs {named(OUTPUTS)}; `kerastl export` makes such a model of a run."
        )
