import unittest

import logic


class Upper(unittest.TestCase):
    def test_text_becomes_capital_letters(self):
        self.assertEqual(logic.upper("grün".encode()), "GRÜN".encode())

    def test_what_is_no_text(self):
        with self.assertRaises(ValueError):
            logic.upper(b"\xff")
