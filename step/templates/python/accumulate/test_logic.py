import unittest

import logic


class Mean(unittest.TestCase):
    def test_a_mean_goes_on_from_its_state(self):
        state = logic.write(1, 20.0)
        count, total = logic.read(state)
        self.assertEqual(logic.mean(count + 1, total + 22.5), b"21.25")
        self.assertEqual(logic.read(None), (0, 0.0))

    def test_what_is_no_state_and_no_number(self):
        with self.assertRaises(ValueError):
            logic.read(b"short")
        with self.assertRaises(ValueError):
            logic.number(b"fault")
