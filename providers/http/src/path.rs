//! Paths of requests, and which of the sources takes one.

use millrace_settings::http::{Part, PathTemplate};

/// Longest path of a request, in bytes as it is written.
pub(crate) const PATH_MAX: usize = 2_048;

/// The parts of a path, decoded; `None` for one that no source can have: with an empty part in it, or one that would be read
/// in two ways, because it decodes to a slash, a control character, `.` or `..`, or to no text at all.
pub(crate) fn parts(path: &str) -> Option<Vec<String>> {
    path.strip_prefix('/')?.split('/').map(decoded).collect()
}

fn decoded(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? << 4 | digit()?).ok()?
            }
            byte => byte,
        });
    }
    let text = String::from_utf8(bytes).ok()?;
    let wrong = |c: char| c.is_control() || c == '/';
    (!text.is_empty() && text != "." && text != ".." && !text.contains(wrong)).then_some(text)
}

/// Whether a template has this path.
pub(crate) fn matches(template: &PathTemplate, parts: &[String]) -> bool {
    let fits = |(wanted, found): (&Part, &String)| match wanted {
        Part::Literal(text) => text == found,
        Part::Named(_) => true,
    };
    template.parts().len() == parts.len() && template.parts().iter().zip(parts).all(fits)
}

/// The order in which templates are asked: of two that have a path, the one whose first different part is a text is meant.
pub(crate) fn rank(template: &PathTemplate) -> Vec<bool> {
    template.parts().iter().map(|part| matches!(part, Part::Named(_))).collect()
}

/// The named parts of a path that the template has, by name.
pub(crate) fn named<'a>(
    template: &'a PathTemplate,
    parts: &'a [String],
) -> impl Iterator<Item = (&'a str, &'a str)> {
    template.parts().iter().zip(parts).filter_map(|(part, found)| match part {
        Part::Named(name) => Some((name.as_str(), found.as_str())),
        Part::Literal(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_decoded_once_and_read_in_one_way() {
        assert_eq!(parts("/a/b%20c/%C3%A4").unwrap(), ["a", "b c", "ä"]);
        assert_eq!(parts("/%2525").unwrap(), ["%25"], "decoded once");
        for wrong in [
            "", "a", "/", "/a/", "//a", "/a//b", "/.", "/a/..", "/%2e%2E", "/a%2Fb", "/%00",
            "/a%0ab", "/%", "/%4", "/%zz", "/%ff", "/%+1",
        ] {
            assert_eq!(parts(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_text_is_meant_before_a_name() {
        let mut templates: Vec<PathTemplate> =
            ["/{a}/x", "/m/{b}", "/m/x", "/{a}/{b}"].map(|t| t.parse().unwrap()).into();
        templates.sort_by_key(rank);
        let first = |path: &str| {
            let parts = parts(path).unwrap();
            templates.iter().find(|t| matches(t, &parts)).unwrap().to_string()
        };
        assert_eq!(first("/m/x"), "/m/x");
        assert_eq!(first("/m/y"), "/m/{b}");
        assert_eq!(first("/n/x"), "/{a}/x");
        assert_eq!(first("/n/y"), "/{a}/{b}");
        let template: PathTemplate = "/{a}/{b}".parse().unwrap();
        let found = parts("/1/2").unwrap();
        assert_eq!(named(&template, &found).collect::<Vec<_>>(), [("a", "1"), ("b", "2")]);
        assert!(!matches(&template, &parts("/1").unwrap()));
    }
}
