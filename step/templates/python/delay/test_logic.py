import unittest

import logic


class Time(unittest.TestCase):
    def test_times_are_read(self):
        self.assertEqual(logic.time(b"1500,81.5"), 1_500_000_000)

    def test_what_is_no_time(self):
        for payload in (b"81.5", b"now,81.5", b"-1,81.5", b"18446744073709551615,81.5", b"\xff"):
            with self.assertRaises(ValueError):
                logic.time(payload)
