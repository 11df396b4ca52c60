import unittest

import logic


class ToCelsius(unittest.TestCase):
    def test_readings(self):
        self.assertEqual(logic.to_celsius(b"212"), b"100.0")
        self.assertEqual(logic.to_celsius(b" -40 "), b"-40.0")

    def test_what_is_no_number(self):
        for payload in (b"hot", b"", b"\xff"):
            with self.assertRaises(ValueError):
                logic.to_celsius(payload)
