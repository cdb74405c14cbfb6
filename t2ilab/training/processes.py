"""How the processes of a run train together: how long they wait for each other, and what becomes of them."""

from __future__ import annotations

from datetime import timedelta
from subprocess import Popen
from typing import Any

from t2ilab.runs.machine import TrainerOptions, device_of
from t2ilab.runs.meeting import meet_at

PATIENCE = timedelta(hours=6)  # of processes that wait while the first one measures and draws


def strategy_of(options: TrainerOptions) -> Any:
    """Lightning's strategy: DDP of several processes."""
    if options.world > 1:
        from lightning.pytorch.strategies import DDPStrategy

        class Meeting(DDPStrategy):
            """Waits minutes, not hours, for processes to start, and not at all for those that have failed."""

            def setup_distributed(self) -> None:
                place = self.cluster_environment
                assert place is not None  # Lightning has set it by now
                meet_at(place.main_address, place.main_port, self.world_size, self.global_rank)
                super().setup_distributed()

            def on_exception(self, exception: BaseException) -> None:
                """Ends the processes that this one has started: on GPUs they would wait as long as PATIENCE."""
                end_all(getattr(self.launcher, "procs", []))
                super().on_exception(exception)

        cpu = device_of(options).type == "cpu"
        return Meeting(
            process_group_backend="gloo" if cpu else "nccl",
            timeout=PATIENCE,
            gradient_as_bucket_view=True,  # else every gradient is there twice
        )
    return "auto"


def end_all(processes: list[Popen[bytes]]) -> None:
    """Ends processes and forgets them: Lightning's observer would end this one with the first that it sees gone."""
    ended = list(processes)
    processes.clear()
    for process in ended:
        process.kill()
