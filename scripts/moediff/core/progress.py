"""Progress of long work: a bar on a terminal, a sober line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time

from tqdm import tqdm

log = logging.getLogger("moediff")


class Progress:
    """Counts `total` units of work; on a terminal a bar, elsewhere a log line every `seconds`."""

    def __init__(
        self, total: int, name: str, unit: str, start: int = 0, seconds: float = 20
    ) -> None:
        self.total, self.name, self.unit, self.seconds = total, name, unit, seconds
        self.first = self.done = start
        self.began = self.said = time.monotonic()
        self.bar = None
        if sys.stderr.isatty():
            self.bar = tqdm(total=total, initial=start, desc=name, unit=f" {unit}", unit_scale=True)

    def advance(self, amount: int, note: str = "") -> None:
        """Count `amount` units more; `note` is shown beside the count."""
        self.done += amount
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(amount)
        elif time.monotonic() - self.said >= self.seconds:
            self.said = time.monotonic()
            log.info("%s: %s of %s %s%s", self.name, f"{self.done:,}", f"{self.total:,}",
                     self.unit, f", {note}" if note else "")  # fmt: skip

    def close(self) -> None:
        """End the bar and log how fast the work went."""
        if self.bar is not None:
            self.bar.close()
        seconds = max(time.monotonic() - self.began, 1e-9)
        rate = (self.done - self.first) / seconds
        log.info("%s: done in %.1f s, %s %s/s", self.name, seconds, f"{rate:,.0f}", self.unit)
