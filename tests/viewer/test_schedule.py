"""Whose picture is drawn next."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipsm_jax.viewer.schedule import REST, Schedule
from ipsm_jax.viewer.stage import Wishes
from ipsm_jax.viewer.viewpoint import Viewpoint


def look(x: float) -> Viewpoint:
    return Viewpoint((1.0, 0.0, 0.0, 0.0), (x, 0.0, 0.0), 1.0, 800, 600)


def test_small_while_moving_and_large_at_rest():
    schedule = Schedule()
    assert schedule.next(0.0) is None and schedule.wait(0.0) is None
    schedule.look(7, look(1), 0.0)
    job = schedule.next(0.01)
    assert (job.client, job.viewpoint, job.still) == (7, look(1), False)
    assert schedule.done(job, 0.05)
    assert schedule.next(0.06) is None and schedule.wait(0.06) == pytest.approx(REST - 0.06)
    job = schedule.next(REST)
    assert job.still
    schedule.done(job, 1.0)
    assert schedule.next(2.0) is None and schedule.wait(2.0) is None
    schedule.look(7, look(1), 3.0)  # the same again is no change
    assert schedule.next(3.0) is None


def test_who_moves_while_drawn_is_drawn_again():
    schedule = Schedule()
    schedule.look(0, look(1), 0.0)
    job = schedule.next(0.0)
    schedule.look(0, look(2), 0.05)
    schedule.done(job, 0.1)
    assert schedule.next(0.1).viewpoint == look(2)


def test_a_large_picture_of_an_old_place_is_not_the_last():
    schedule = Schedule()
    schedule.look(0, look(1), 0.0)
    job = schedule.next(1.0)
    schedule.look(0, look(2), 1.1)
    schedule.done(job, 1.2)
    moving = schedule.next(1.2)
    assert not moving.still and moving.viewpoint == look(2)
    schedule.done(moving, 1.25)
    assert schedule.next(1.1 + REST).still


def test_wishes_change_the_picture():
    schedule = Schedule()
    schedule.look(0, look(1), 0.0)
    schedule.done(schedule.next(1.0), 1.0)
    schedule.want(0, Wishes("depth"), 2.0)
    job = schedule.next(2.0)
    assert job.wishes == Wishes("depth") and not job.still
    schedule.done(job, 2.1)
    assert schedule.next(2.0 + REST).wishes == Wishes("depth")


def test_new_gaussians_are_drawn_large_for_those_who_rest():
    schedule = Schedule()
    schedule.look(0, look(1), 0.0)
    schedule.done(schedule.next(1.0), 1.0)
    schedule.refresh()
    job = schedule.next(1.1)
    assert job.still
    schedule.done(job, 1.2)
    assert schedule.next(1.3) is None


def test_hidden_windows_get_nothing_and_keep_nobody_awake():
    schedule = Schedule()
    schedule.look(0, look(1)._replace(width=0), 0.0)
    assert schedule.next(5.0) is None and schedule.wait(5.0) is None
    schedule.look(0, look(1), 6.0)
    assert schedule.next(6.0) is not None


def test_who_left_is_forgotten():
    schedule = Schedule()
    schedule.look(0, look(1), 0.0)
    job = schedule.next(0.0)
    schedule.leave(0)
    assert not schedule.done(job, 0.1) and schedule.next(9.0) is None and len(schedule) == 0
    schedule.leave(0)


def test_two_who_move_all_the_time_take_turns():
    schedule, served = Schedule(), []
    for step in range(10):
        now = step / 20
        for client in (0, 1):
            schedule.look(client, look(step), now)
        job = schedule.next(now)
        served.append(job.client)
        schedule.done(job, now + 0.04)
    assert all(a != b for a, b in itertools.pairwise(served))


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["look", "want", "leave", "refresh", "draw"]), st.floats(0, 0.5))
    )
)
def test_everybody_who_stays_ends_with_a_large_picture_of_what_they_see(events):
    """Whatever happens, in the end nothing is left to do, and the last picture of each is large and what they want."""
    schedule, now, last, shown = Schedule(), 0.0, {}, {}

    def draw():
        job = schedule.next(now)
        if job is not None and schedule.done(job, now):
            shown[job.client] = job

    for number, (client, event, pause) in enumerate(events):
        now += pause
        if event == "look":
            schedule.look(client, look(number), now)
            last[client] = (look(number), last.get(client, (None, Wishes()))[1])
        elif event == "want":
            schedule.want(client, Wishes("color", number / 1000), now)
            last[client] = (last.get(client, (None, Wishes()))[0], Wishes("color", number / 1000))
        elif event == "leave":
            schedule.leave(client)
            last.pop(client, None)
            shown.pop(client, None)
        elif event == "refresh":
            schedule.refresh()
        else:
            draw()
    for _ in range(20):
        wait = schedule.wait(now)
        if wait is None:
            break
        now += wait + 1e-6
        draw()
    assert schedule.wait(now) is None and schedule.next(now) is None
    for client, (viewpoint, wishes) in last.items():
        if viewpoint is not None:
            assert shown[client].still and shown[client][1:3] == (viewpoint, wishes)
