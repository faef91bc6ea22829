"""What is tried again and when, without a cluster: workers are a table of answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from ferkd_pipeline.engine import ShardOutcome
from ferkd_pipeline.executors import schedule
from ferkd_pipeline.executors.overview import Advanced, Begun, News, Noted, Overview, Teller
from ferkd_pipeline.executors.phases import Place, Todo
from ferkd_pipeline.executors.schedule import Answer, Done, Lost, Schedule
from ferkd_pipeline.failures import Failure, error_of
from store.errors import DataError, FerkdError, ParamsError, RetryError, ShardError
from store.lock import HEARTBEAT_SECONDS, STALE_SECONDS

LOST = Lost("its node is gone")


def todo(shard: int) -> Todo:
    return Todo(Place(shard), f"infer shard {shard}", f"part-{shard:05d}", 10)


def done(shard: int) -> Done:
    return Done(ShardOutcome(shard, "run", {}))


def failed(shard: int, kind: type[FerkdError], message: str = "no") -> Failure:
    return Failure(f"infer shard {shard}, on node-{shard}", kind, message)


@dataclass
class Told:
    """A progress that remembers."""

    lines: list[str] = field(default_factory=list)
    total: int = 0
    done: int = 0

    def start(self, label: str, total: int, unit: str) -> None:
        self.lines.append(f"{label}: {total} {unit}")
        self.total, self.done = total, 0

    def advance(self, amount: int = 1) -> None:
        self.done += amount

    def resize(self, total: int) -> None:
        self.total = total

    def note(self, message: str) -> None:
        self.lines.append(message)


@dataclass
class Table:
    """Answers of each shard, attempt by attempt; each takes a second."""

    answers: dict[int, list[Answer]]
    now: float = 0.0
    tried: list[tuple[float, int]] = field(default_factory=list)
    most_at_once: int = 0

    def submit(self, number: int, attempt: int, todo: Todo) -> object:
        self.tried.append((self.now, number))
        return number, attempt

    def wait(self, handles: Sequence[object], seconds: float) -> list[tuple[object, Answer]]:
        self.now += 1.0
        self.most_at_once = max(self.most_at_once, len(handles))
        pairs = [handle for handle in handles if isinstance(handle, tuple)]
        return [(pair, self.answers[pair[0]][pair[1]]) for pair in pairs[:2]]

    def news(self) -> list[News]:
        return []


def run(*answers: list[Answer]) -> tuple[Table, Told, list[ShardOutcome]]:
    table, told = Table(dict(enumerate(answers))), Told()
    listed = [todo(shard) for shard in range(len(answers))]
    overview = Overview(told)
    overview.start("infer", [(each.label, each.stem, each.num_crops) for each in listed])
    outcomes = Schedule(table, overview, lambda: table.now).run(listed)
    return table, told, outcomes


def test_a_lost_worker_is_replaced_at_once() -> None:
    table, told, outcomes = run([LOST, LOST, done(0)], [done(1)])
    assert sorted(each.shard or 0 for each in outcomes) == [0, 1]
    assert [shard for _, shard in table.tried] == [0, 1, 0, 0]
    assert (
        told.lines[1:]
        == ["infer shard 0: its worker was lost (its node is gone); it is tried again"] * 2
    )
    assert told.done == told.total == 20


def test_a_worker_that_is_lost_for_ever() -> None:
    lost: list[Answer] = [LOST] * (schedule.MAX_LOST + 1)
    with pytest.raises(RetryError, match=r"^infer shard 0: its worker was lost 6 times, at last"):
        run(lost, [done(1)])


def test_what_says_try_again_is_tried_later() -> None:
    busy = failed(0, RetryError, "part-00000 is being written by process 7 on node-2")
    table, told, _ = run([busy, busy, done(0)], [done(1)])
    times = [now for now, shard in table.tried if shard == 0]
    first, second = schedule.RETRY_SECONDS[:2]
    assert times[1] - times[0] >= first
    assert times[2] - times[1] >= second
    assert told.lines[1] == (
        "infer shard 0: part-00000 is being written by process 7 on node-2; tried again in 2 s"
    )
    # The writer on a node that is lost has its lease until it is stale.
    assert sum(schedule.RETRY_SECONDS) > STALE_SECONDS + HEARTBEAT_SECONDS
    answers: list[Answer] = [busy] * (len(schedule.RETRY_SECONDS) + 1)
    with pytest.raises(RetryError, match=r"^infer shard 0, on node-0: part-00000 is being written"):
        run(answers)


def test_others_go_on_and_the_gravest_speaks() -> None:
    nan = failed(1, ShardError, "NaN logits of ant/0.jpg")
    answers: list[list[Answer]] = [[done(0)], [nan], [failed(2, ShardError)], [LOST, done(3)]]
    with pytest.raises(ShardError) as caught:
        run(*answers)
    assert str(caught.value) == (
        "infer shard 1, on node-1: NaN logits of ant/0.jpg; also failed, see above: "
        "infer shard 2, on node-2"
    )


@pytest.mark.parametrize("kind", [ParamsError, DataError, FerkdError, ShardError])
def test_an_answer_is_not_asked_for_again(kind: type[FerkdError]) -> None:
    table = Table({0: [failed(0, kind)], 1: [done(1)]})
    told = Told()
    overview = Overview(told)
    overview.start("infer", [("a", "part-00000", 10), ("b", "part-00001", 10)])
    with pytest.raises(kind, match="infer shard 0, on node-0: no") as caught:
        Schedule(table, overview, lambda: table.now).run([todo(0), todo(1)])
    assert type(caught.value) is kind
    assert [shard for _, shard in table.tried] == [0, 1]
    assert told.lines[1:] == ["infer shard 0, on node-0 failed: no"]
    assert told.done == 10


def test_what_is_wrong_comes_before_what_may_pass() -> None:
    order = [ParamsError, DataError, FerkdError, ShardError, RetryError]
    for index, kind in enumerate(order):
        failures = [failed(number, each) for number, each in enumerate(reversed(order[index:]))]
        assert type(error_of(failures)) is kind
    many = [failed(number, ShardError) for number in range(50)]
    assert str(error_of(many)).endswith("infer shard 20, on node-20 and 29 more")


def test_a_large_stage_is_given_out_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "MOST_AT_ONCE", 3)
    answers: list[list[Answer]] = [[done(shard)] for shard in range(8)]
    table, _, outcomes = run(*answers)
    assert len(outcomes) == 8
    assert table.most_at_once == 3


def overview(*sizes: int) -> tuple[Overview, Told]:
    told = Told()
    shown = Overview(told)
    shown.start("infer", [(f"shard {n}", f"part-{n:05d}", size) for n, size in enumerate(sizes)])
    return shown, told


def begun(task: int, total: int, unit: str = "crops", attempt: int = 0) -> News:
    return News(task, attempt, Begun(f"infer part-{task:05d}", total, unit))


def test_the_whole_is_counted_in_crops() -> None:
    shown, told = overview(40, 60)
    shown.hear([begun(0, 40), News(0, 0, Advanced(10)), begun(1, 60), News(1, 0, Advanced(30))])
    assert (told.done, told.total) == (40, 100)
    shown.done(0)
    assert told.done == 70
    assert told.lines == ["infer: 100 crops"]


def test_images_are_counted_as_their_crops() -> None:
    shown, told = overview(40, 60)
    shown.hear([begun(0, 10, "images"), News(0, 0, Advanced(5))])
    assert told.done == 20


def test_what_an_earlier_run_did_is_not_to_do() -> None:
    shown, told = overview(40, 60)
    shown.hear([begun(0, 15), News(0, 0, Advanced(5))])
    assert (told.done, told.total) == (5, 75)


def test_another_attempt_counts_what_is_kept() -> None:
    shown, told = overview(40, 60)
    shown.hear([begun(0, 40), News(0, 0, Advanced(25))])
    shown.again(0, 1)
    shown.hear([begun(0, 20, attempt=1)])
    assert (told.done, told.total) == (20, 100)
    shown.hear([News(0, 0, Advanced(5))])  # late, of the process that is no more
    assert told.done == 20
    shown.hear([News(0, 1, Advanced(20))])
    assert told.done == 40


def test_other_looks_are_not_counted() -> None:
    shown, told = overview(40)
    shown.hear([News(0, 0, Begun("ask the teacher", 64, "images")), News(0, 0, Advanced(64))])
    assert told.done == 0


def test_what_is_so_for_all_shards_is_told_once() -> None:
    shown, told = overview(40, 60)
    shown.hear([News(0, 0, Noted("all is well", "a")), News(1, 0, Noted("all is well", "b"))])
    shown.hear([News(1, 0, Noted("1 image is bad", "b")), News(-1, 0, Noted("fitted", "a"))])
    assert told.lines[1:] == [
        "shard 0, on a: all is well",
        "shard 1, on b: 1 image is bad",
        "fitted (on a)",
    ]


def test_news_are_not_sent_for_every_crop() -> None:
    now = 0.0
    sent: list[News] = []
    teller = Teller(sent.extend, 3, 1, "node", seconds=1.0, clock=lambda: now)
    teller.start("infer part-00003", 100, "crops")
    for _ in range(10):
        now += 0.25
        teller.advance(2)
    teller.note("a note")
    teller.close()
    assert [each.what for each in sent] == [
        Begun("infer part-00003", 100, "crops"),
        Advanced(8),
        Advanced(8),
        Advanced(4),
        Noted("a note", "node"),
    ]
    assert {(each.task, each.attempt) for each in sent} == {(3, 1)}
