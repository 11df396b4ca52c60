import unittest

import logic


class Lines(unittest.TestCase):
    def test_empty_lines_are_left_out(self):
        self.assertEqual(logic.lines(b"a\n\n b \n"), [b"a", b"b"])
        self.assertEqual(logic.lines(b""), [])

    def test_what_is_no_text(self):
        with self.assertRaises(ValueError):
            logic.lines(b"\xff")
