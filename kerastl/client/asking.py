"""Asks a served model about examples: batch by batch, patiently, and without one bad example spoiling the others."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kerastl.client.access import Access, read_access
from kerastl.client.address import Address, parse_address
from kerastl.client.replies import (
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
    is_ours,
    named,
)
from kerastl.errors import ServingError, UserError
from kerastl.modality import FIRST, MODALITIES, Modality, RawExample, bytes_of, modality_named
from kerastl.prediction import Prediction, Predictions, unreadable
from kerastl.progress import Progress
from kerastl.wording import counted

BATCH_EXAMPLES = 32
BATCH_BYTES = 16 * 2**20
"""Photographs are asked about in smaller batches: over REST a batch is one text, a third longer than its files."""

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
    examples: Sequence[str],
    *,
    top: int,
    patience: Patience | None = None,
    access: Access | None = None,
    modality: str | None = None,
    progress: Progress = Progress(),
) -> Predictions:
    """Classify examples with a served model.

    Args:
        url: see `parse_address`.
        examples: files, folders and glob patterns; see `Modality.find`.
        top: how many classes to name for each example; a model serves its best five.
        patience: how long to wait for the server.
        access: credentials; without it a token that the environment holds.
        modality: name of what the model's examples are; the server is asked without it.
        progress: receives notes and progress.

    Returns:
        A prediction for each example, in the order found; those that cannot be read carry their error.

    Raises:
        UserError: the address or the model behind it cannot be used, or no example was found.
        ServingError: the server gave no answer.
    """
    address, patience, access = parse_address(url), patience or Patience(), access or read_access()
    kind = modality_named(modality or _modality_served(address, patience, access))
    found = kind.find(examples, progress)
    predictions = Predictions(kind.noun)
    converted: Counter[str] = Counter()
    with contextlib.closing(_connect(address, patience.timeout_seconds, access, kind)) as connection:
        asker = _Asker(connection, address, patience, progress, kind)
        with progress.track("predict", len(found), f"{kind.noun}s") as tracker:
            for batch in _batches(found, kind):
                answers = iter(asker.answers([each.data for each in batch if not each.reason]))
                for each in batch:
                    answer = each.reason or next(answers)
                    predictions.append(
                        unreadable(each.path, answer)
                        if isinstance(answer, str)
                        else Prediction(
                            each.path,
                            *(answer.top[0] if answer.top else ("", 0.0)),
                            answer.top[:top],
                            accepted=answer.accepted,
                            labels=answer.labels,
                            entities=answer.entities,
                        )
                    )
                    converted.update([each.converted] if each.converted else [])
                tracker.advance(len(batch))
    if converted:
        parts = ", ".join(f"{count:,} {kind}" for kind, count in converted.most_common())
        progress.warn(f"{counted(converted.total(), kind.noun)} ({parts}) {kind.converted}.")
    return predictions


@dataclass(frozen=True)
class _File:
    path: str
    data: bytes = b""
    converted: str = ""
    reason: str = ""


def _modality_served(address: Address, patience: Patience, access: Access) -> str:
    """The name of what a served model takes, by its signature; the first where the server tells none."""
    with contextlib.closing(
        _connect(address, patience.timeout_seconds, access, modality_named(FIRST))
    ) as asked:
        inputs, _ = asked.signature() or (frozenset[str](), None)
    return next((name for name in MODALITIES if {modality_named(name).request} == inputs), FIRST)


def _batches(found: Sequence[tuple[str, RawExample]], modality: type[Modality]) -> Iterator[list[_File]]:
    """Examples in their order, as many as make one request, read when their turn has come."""
    batch: list[_File] = []
    size_bytes = 0
    for path, raw in found:
        try:
            file = _File(path, *modality.sendable(bytes_of(raw)))
        except OSError as error:
            file = _File(path, reason=error.strerror or str(error))
        except ValueError as error:
            file = _File(path, reason=str(error))
        if batch and (len(batch) == BATCH_EXAMPLES or size_bytes + len(file.data) > BATCH_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(file)
        size_bytes += len(file.data)
    yield batch


def _connect(
    address: Address, timeout_seconds: float, access: Access, modality: type[Modality]
) -> Connection:
    if address.is_grpc:
        from kerastl.client.grpc_client import GrpcConnection

        return GrpcConnection(address, timeout_seconds, access, modality)
    from kerastl.client.rest import RestConnection

    return RestConnection(address, timeout_seconds, access, modality)


class _Asker:
    """Knows whether the model behind the server was looked at."""

    def __init__(
        self,
        connection: Connection,
        address: Address,
        patience: Patience,
        progress: Progress,
        modality: type[Modality],
    ) -> None:
        self._connection, self._address, self._modality = connection, address, modality
        self._patience, self._progress = patience, progress
        self._looked_at = False

    def answers(self, raw: Sequence[bytes]) -> list[Answer | str]:
        """For each example its answer, or why it cannot be read.

        The server refuses a whole batch for one bad example and does not say which: halves of the batch are
        asked about, which finds one bad example among 32 with ten requests more.
        """
        if not raw:
            return []
        try:
            return list(self._patiently(raw))
        except Refused as refusal:
            self._look_at_the_model()
            if len(raw) == 1:
                return [self._modality.reason_of(str(refusal)) or "refused by the server without a reason"]
            middle = len(raw) // 2
            return [*self.answers(raw[:middle]), *self.answers(raw[middle:])]
        except TimedOut:
            count = counted(len(raw), self._modality.noun)
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

    def _patiently(self, raw: Sequence[bytes]) -> list[Answer]:
        wait_seconds = self._patience.first_wait_seconds
        left, started = self._patience.retries, time.monotonic()
        while True:
            try:
                return self._connection.answers(raw)
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
        """A model that takes something else refuses every example; its signature says so at once."""
        if self._looked_at:
            return
        self._looked_at = True
        signature = self._connection.signature()
        if signature is None:
            return
        inputs, outputs = signature
        if not inputs and not outputs:
            raise self._not_ours(f"it has no signature '{SIGNATURE}'")
        if inputs != {self._modality.request} or not is_ours(outputs):
            raise self._not_ours(f"it takes {named(inputs)} and answers with {named(outputs)}")

    def _not_ours(self, found: str) -> UserError:
        return UserError(
            f"{self._address} does not answer as a model that kerastl exported: {found}. Expected the input '{self._modality.request}' and "
            f"the outputs {named(OUTPUTS)}; `kerastl export` makes such a model of a run."
        )
