"""The batcher as it was when nobody took turns: what one tenant's batches are compared with."""

from collections.abc import Sequence

from fledge.engine.batcher import PATIENCE, Cost, Picked, Request, band_of


def _urgency(request: Request) -> tuple[int, int]:
    return request.priority, request.tokens_left


class OneTenantBatcher:
    """The rules within a tenant, as they were before tenants took turns: slow and plain."""

    def __init__(self, cost: Cost) -> None:
        self._cost = cost
        self._requests: dict[Request, None] = {}  # in order of arrival
        self._last_urgency = (0, 0)  # of the request that led the last batch
        self.waiting_tokens = 0

    def add(self, request: Request) -> None:
        self._requests[request] = None
        self.waiting_tokens += request.tokens_left

    def remove(self, request: Request) -> None:
        if request in self._requests:
            del self._requests[request]
            self.waiting_tokens -= request.tokens_left

    def next_batch(self, budget: float) -> list[Picked]:
        queue = self._queue()
        if not queue:
            return []
        band = max(queue[0].bands)
        batch: list[Picked] = []
        num_tokens = width = 0
        for request in queue:
            rows = request.bands.get(band)
            while rows:
                length = request.lengths[rows[-1]]
                wider = max(width, length)
                cost = self._cost.of(num_tokens + length, len(batch) + 1, wider)
                if batch and cost > budget:
                    self._taken(batch)
                    return batch
                num_tokens, width = num_tokens + length, wider
                batch.append((request, rows.pop()))
        self._taken(batch)
        return batch

    def _queue(self) -> list[Request]:
        queue = sorted(self._requests, key=_urgency)
        if not queue:
            return queue
        late = max(queue, key=lambda request: request.passed_over)
        has_waited = self._last_urgency > _urgency(queue[0])
        if late.passed_over >= PATIENCE and not has_waited:
            queue.remove(late)
            queue.insert(0, late)
        self._last_urgency = _urgency(queue[0])
        return queue

    def _taken(self, batch: Sequence[Picked]) -> None:
        for request in self._requests:
            request.passed_over += 1
        for request, row in batch:
            request.passed_over = 0
            request.tokens_left -= request.lengths[row]
            self.waiting_tokens -= request.lengths[row]
            band = band_of(request.lengths[row])
            if not request.bands.get(band, True):
                del request.bands[band]
            if not request.bands:
                self._requests.pop(request, None)
