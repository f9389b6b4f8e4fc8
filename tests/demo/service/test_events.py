"""What a comparison comes to."""

from tests.demo.says.test_comparison import DONE


def test_times_are_medians_and_the_speed_up_is_of_each_round():
    assert [its.ms_per_image for its in DONE.sides] == [100.0, 50.0]
    assert DONE.speed_up(1) == 2.0 and DONE.speed_up(0) == 0.5  # of 2, 1.5 and 2.75
    assert DONE.rounds == 3 and DONE.is_done
