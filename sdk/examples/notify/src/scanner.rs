//! Reading a short text from left to right, and saying where it is wrong.

use std::fmt;

/// What is wrong in a text, and in which column, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    pub column: usize,
    pub message: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}", self.column, self.message)
    }
}

pub struct Scanner {
    chars: Vec<char>,
    at: usize,
}

impl Scanner {
    /// # Errors
    /// The text has more than `chars_max` characters.
    pub fn new(text: &str, chars_max: usize) -> Result<Self, Wrong> {
        let chars: Vec<char> = text.chars().collect();
        if chars.len() > chars_max {
            let message = format!("it has {} characters, more than {chars_max}", chars.len());
            return Err(Wrong { column: chars_max + 1, message });
        }
        Ok(Self { chars, at: 0 })
    }

    /// The column of the next character.
    pub fn column(&self) -> usize {
        self.at + 1
    }

    pub fn wrong(&self, message: impl Into<String>) -> Wrong {
        Wrong { column: self.column(), message: message.into() }
    }

    pub fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    pub fn bump(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += 1;
        Some(next)
    }

    /// Whether the text goes on like this.
    pub fn is_at(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(offset, c)| self.chars.get(self.at + offset) == Some(&c))
    }

    /// Passes this text if it is what follows.
    pub fn eat(&mut self, text: &str) -> bool {
        let found = self.is_at(text);
        if found {
            self.at += text.chars().count();
        }
        found
    }

    pub fn blanks(&mut self) {
        self.take(char::is_whitespace);
    }

    pub fn take(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let rest = self.chars.get(self.at..).unwrap_or_default();
        let taken: String = rest.iter().take_while(|c| wanted(**c)).collect();
        self.at += taken.chars().count();
        taken
    }

    /// Letters, digits and `_`.
    pub fn word(&mut self) -> String {
        self.take(|c| c.is_ascii_alphanumeric() || c == '_')
    }

    /// The word that follows, which stays.
    pub fn peek_word(&mut self) -> String {
        let at = self.at;
        let word = self.word();
        self.at = at;
        word
    }

    /// Passes the word that follows if it is one of these, with the blanks before it.
    pub fn eat_word<'a>(&mut self, words: &[&'a str]) -> Option<&'a str> {
        let at = self.at;
        self.blanks();
        let word = self.word();
        let found = words.iter().copied().find(|known| *known == word);
        if found.is_none() {
            self.at = at;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_words_and_says_where_it_is() {
        let mut scanner = Scanner::new("ab  in c", 8).unwrap();
        assert_eq!((scanner.word().as_str(), scanner.column()), ("ab", 3));
        assert_eq!((scanner.eat_word(&["of"]), scanner.column()), (None, 3));
        assert_eq!((scanner.eat_word(&["of", "in"]), scanner.column()), (Some("in"), 7));
        assert!(!scanner.eat("c"));
        scanner.blanks();
        assert!(scanner.eat("c") && scanner.bump().is_none());
        assert_eq!(scanner.wrong("no").to_string(), "column 9: no");
        assert_eq!(Scanner::new("abc", 2).err().unwrap().column, 3);
    }
}
