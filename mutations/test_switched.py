"""python3 mutations/test_switched.py"""

import unittest

from switched import NotSwitchable, Switched, bodies

ORIGINAL = """
const fn fixed() -> u64 { 1 }
/// fn not_code() {}
impl<'a> Thing<'a> {
    fn first(&self, pair: (u64, [u8; 2])) -> u64 where Self: Sized {
        let text = "{"; // {
        let brace = '{';
        if text.len() > 1 { pair.0 } else { 2 }
    }
    fn declared(&self);
    fn second<'b>(&'b self) { fn inner() {} inner() }
}
"""


def files(**changed):
    return {"crates/x/src/lib.rs": "mod thing;\n", "crates/x/src/thing.rs": ORIGINAL, **changed}


class Bodies(unittest.TestCase):
    def test_braces_in_comments_and_literals_are_no_braces(self):
        found = [ORIGINAL[start:end] for start, end in bodies(ORIGINAL)]
        self.assertEqual(len(found), 2, "neither the constant function nor the declared nor the inner one")
        self.assertTrue(found[0].startswith('{\n        let text = "{"') and found[0].endswith("}\n    }"))
        self.assertEqual(found[1], "{ fn inner() {} inner() }")


class Patches(unittest.TestCase):
    def setUp(self):
        self.switched = Switched(files())

    def plant(self, number, old, new):
        self.assertIn(old, ORIGINAL)
        self.switched.add(number, {"crates/x/src/thing.rs": ORIGINAL.replace(old, new)})

    def test_two_patches_of_one_function_stand_next_to_the_original(self):
        self.plant(3, "pair.0", "pair.0 + 1")
        self.plant(5, "> 1", "> 0")
        text = self.switched.files()["crates/x/src/thing.rs"]
        for arm in ("3 => {", "5 => {", "_ => {"):
            self.assertEqual(text.count(arm), 1, text)
        self.assertEqual(text.count("fn first"), 1)
        self.assertIn("mod planted", self.switched.files()["crates/x/src/lib.rs"])

    def test_a_dropped_patch_leaves_the_original(self):
        self.plant(3, "pair.0", "pair.0 + 1")
        self.switched.drop(3)
        self.assertEqual(self.switched.files(), {"crates/x/src/thing.rs": ORIGINAL})

    def test_an_error_belongs_to_the_patch_in_whose_lines_it_is(self):
        self.plant(3, "pair.0", "pair.0 + nothing")
        text = self.switched.files()["crates/x/src/thing.rs"]
        line = text[: text.index("nothing")].count("\n") + 1
        self.assertEqual(self.switched.culprits(f"crates/x/src/thing.rs:{line}:9: error[E0425]: no value"), {3})
        self.assertEqual(self.switched.culprits("crates/x/src/thing.rs:1:9: error: else"), set())

    def test_a_patch_outside_of_bodies_of_a_library_needs_a_build_of_its_own(self):
        for old, new in [("pair: (u64", "pair: (u32"), ("u64 { 1 }", "u64 { 2 }"), ("fn declared(&self);", "")]:
            with self.assertRaises(NotSwitchable, msg=new):
                self.plant(1, old, new)
        with self.assertRaises(NotSwitchable):
            self.switched.add(1, {"crates/x/tests/all.rs": "fn test() {}"})


if __name__ == "__main__":
    unittest.main()
