"""The process that keeps the others waiting is named, once."""

import json

import pytest

from vitjax.training.pace import Pace, find_straggler


@pytest.mark.parametrize(
  ('own_s', 'expected'),
  [
    ({0: 0.1, 1: 0.1, 2: 0.5}, 2),
    ({0: 0.1, 1: 0.5}, 1),
    ({0: 0.01, 1: 0.05}, None),  # five times as long, but nothing beside a step of a second
    ({0: 0.5, 1: 0.6, 2: 0.5}, None),
    ({0: 0.9}, None),
    ({}, None),
  ],
)
def test_a_straggler_is_much_slower_than_the_median_and_that_matters(own_s, expected):
  assert find_straggler(own_s, step_s=1.0) == expected


class Board:
  rank, num_processes = 0, 3

  def __init__(self):
    self.posts = {'1': '0.02', '2': '0.9'}

  def update(self, name, text):
    self.posts[name.removeprefix('pace/')] = text

  def read(self, folder):
    assert folder == 'pace'
    return self.posts


def test_it_is_said_once_per_rank():
  board = Board()
  pace = Pace(board)
  slow, text = pace.lap(0.03, 1.0)
  assert slow == 2
  assert text.startswith('rank 2 holds the others up: busy by itself for 0.9 s of each step of 1 s')
  assert json.loads(board.posts['0']) == 0.03
  assert pace.lap(0.03, 1.0) == (2, '')
  board.posts['2'] = '0.02'
  assert pace.lap(0.03, 1.0) == (None, '')
