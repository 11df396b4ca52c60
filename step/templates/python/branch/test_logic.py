import unittest

import logic


class Limit(unittest.TestCase):
    def test_the_arms(self):
        logic.limit = logic.read({"limit": "80"})
        self.assertEqual(logic.arm(b"80.5"), "high")
        self.assertEqual(logic.arm(b"80"), "low")

    def test_what_is_no_number(self):
        for payload in (b"hot", b"", b"\xff"):
            with self.assertRaises(ValueError):
                logic.arm(payload)
        with self.assertRaises(ValueError):
            logic.read({})
