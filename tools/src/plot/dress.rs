// SPDX-License-Identifier: GPL-2.0

//! Additions to the drawing library's pictures: a title and a description for screen readers,
//! colours for dark screens, and tool tips. They are added to the text of the picture.

use std::{
    cell::RefCell,
    fmt::Write, //
};

/// Colours for dark screens instead of those that the picture has. Other colours are good on both.
const DARK: &[(&str, &str)] = &[
    // The background.
    ("#FFFFFF", BACKGROUND),
    // Text and axes.
    ("#000000", "#E4E6EA"),
    // Lines, and what is not mapped.
    ("#E6E6E6", "#3A3F48"),
    // Blue: the lighter one of the same palette.
    ("#0072B2", "#56B4E9"),
];

/// The background of dark screens.
pub const BACKGROUND: &str = "#15171B";

/// A tool tip.
struct Tip {
    from: (i32, i32),
    to: (i32, i32),
    text: String,
}

/// The tool tips of a picture.
#[derive(Default)]
pub struct Tips(RefCell<Vec<Tip>>);

impl Tips {
    /// Adds a text for the rectangle between two corners, in pixels.
    pub fn add(&self, a: (i32, i32), b: (i32, i32), text: String) {
        self.0.borrow_mut().push(Tip {
            from: (a.0.min(b.0), a.1.min(b.1)),
            to: (a.0.max(b.0), a.1.max(b.1)),
            text,
        });
    }
}

/// Returns text as it may stand in XML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Returns the rules for dark screens.
fn style() -> String {
    let mut rules = String::new();
    for (light, dark) in DARK {
        for attribute in ["fill", "stroke"] {
            let _ = write!(rules, "[{attribute}=\"{light}\"]{{{attribute}:{dark}}}");
        }
    }
    format!("<style>@media (prefers-color-scheme: dark){{{rules}}}</style>\n")
}

/// Adds all of that to a picture.
pub fn dress(picture: &str, title: &str, description: &str, tips: &Tips) -> String {
    let Some((head, rest)) = picture.split_once('>') else {
        return picture.to_owned();
    };
    let body = rest.trim_end();
    let body = body.strip_suffix("</svg>").unwrap_or(body);
    let mut text = format!(
        "{head} role=\"img\" aria-labelledby=\"title description\">\n\
         <title id=\"title\">{}</title>\n<desc id=\"description\">{}</desc>\n{}{body}\
         <g fill=\"none\" pointer-events=\"all\">\n",
        escape(title),
        escape(description),
        style()
    );
    for Tip {
        from,
        to,
        text: tip,
    } in &*tips.0.borrow()
    {
        let (width, height) = ((to.0 - from.0).max(1), (to.1 - from.1).max(1));
        let _ = writeln!(
            text,
            "<rect x=\"{}\" y=\"{}\" width=\"{width}\" height=\"{height}\"><title>{}</title>\
             </rect>",
            from.0,
            from.1,
            escape(tip)
        );
    }
    text.push_str("</g>\n</svg>\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_dressed() {
        let tips = Tips::default();
        tips.add((5, 9), (3, 4), "a < b".to_owned());
        tips.add((1, 1), (1, 1), "point".to_owned());
        let picture = "<svg width=\"1\">\n<rect fill=\"#FFFFFF\"/>\n</svg>\n";
        let text = dress(picture, "A & B", "More", &tips);
        assert!(text.starts_with("<svg width=\"1\" role=\"img\" aria-labelledby=\"title desc"));
        for part in [
            "<title id=\"title\">A &amp; B</title>",
            "<desc id=\"description\">More</desc>",
            "[fill=\"#FFFFFF\"]{fill:#15171B}",
            "<rect fill=\"#FFFFFF\"/>",
            "<rect x=\"3\" y=\"4\" width=\"2\" height=\"5\"><title>a &lt; b</title></rect>",
            "<rect x=\"1\" y=\"1\" width=\"1\" height=\"1\"><title>point</title></rect>",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(text.ends_with("</g>\n</svg>\n"));
        assert_eq!(text.matches("</svg>").count(), 1);
    }
}
