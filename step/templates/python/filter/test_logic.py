import unittest

import logic


class Limit(unittest.TestCase):
    def test_numbers_above_it(self):
        logic.limit = logic.read({"limit": "80"})
        self.assertTrue(logic.is_above(b"80.5"))
        self.assertFalse(logic.is_above(b"80"))

    def test_what_is_no_number(self):
        for payload in (b"hot", b"", b"\xff"):
            with self.assertRaises(ValueError):
                logic.is_above(payload)
        with self.assertRaises(ValueError):
            logic.read({})
