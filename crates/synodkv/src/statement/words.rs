//! Splits a line into words as a shell would.
//!
//! Whitespace separates words. Text between single or double quotes is one word, or part of one,
//! and is taken literally, backslashes included, so that `'a\x00'` means the same as on the command
//! line. `#` at the beginning of a word makes the rest of the line a comment.

/// One word, without its quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    pub text: String,
    /// Whether it had quotes; a quoted word is never an option.
    pub is_quoted: bool,
}

impl Word {
    pub fn is_option(&self) -> bool {
        !self.is_quoted && self.text.starts_with("--")
    }
}

pub fn split(line: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '#' if word.is_none() => break,
            '\'' | '"' => {
                let word = word.get_or_insert(Word { text: String::new(), is_quoted: true });
                word.is_quoted = true;
                word.text.push_str(quoted(&mut rest, c)?);
            }
            c => word.get_or_insert(Word { text: String::new(), is_quoted: false }).text.push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Takes the text up to the next `quote`, and the quote.
fn quoted<'l>(rest: &mut std::str::Chars<'l>, quote: char) -> Result<&'l str, String> {
    let text = rest.as_str();
    let Some((inside, behind)) = text.split_once(quote) else {
        return Err(format!(
            "the quote before `{text}` is not closed; a literal quote is written \\x{:02x}",
            quote as u32
        ));
    };
    *rest = behind.chars();
    Ok(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: &[&str]) {
        let words = split(line).expect("words");
        assert_eq!(words.iter().map(|word| &word.text[..]).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn blanks_separate_words_and_quotes_keep_them_together() {
        check("", &[]);
        check("  set  a\tb ", &["set", "a", "b"]);
        check("set 'a b' \"it's\" x'y z'\"w\"", &["set", "a b", "it's", "xy zw"]);
        check("set '' \"\"", &["set", "", ""]);
    }

    #[test]
    fn backslashes_stay_as_they_are() {
        check(r#"set 'a\x00\'"#, &["set", r"a\x00\"]);
        check(r"set a\nb", &["set", r"a\nb"]);
    }

    #[test]
    fn a_comment_begins_where_a_word_could() {
        check("# nothing", &[]);
        check("get a#b # the rest 'is not looked at", &["get", "a#b"]);
        check("get '#a'", &["get", "#a"]);
    }

    #[test]
    fn an_open_quote_is_an_error_that_shows_where() {
        let error = split("set 'a b").expect_err("not closed");
        assert_eq!(error, "the quote before `a b` is not closed; a literal quote is written \\x27");
    }

    #[test]
    fn only_words_without_quotes_are_options() {
        let words = split("--a '--a' -a").expect("words");
        assert_eq!(words.iter().map(Word::is_option).collect::<Vec<_>>(), [true, false, false]);
    }
}
