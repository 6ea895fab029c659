//! Texts that others made, cut to a length that can be kept: what a guest answers, names in a component, values in a
//! manifest.
//!
//! Invariant: what does not fit is never written anywhere. A value is formatted into its bound, and what is left over is
//! counted and dropped. What was cut says so, with how many bytes are gone. A value that has written a mebibyte is told
//! to stop: a few bytes of a stranger may stand for a text without end.

use std::{
    collections::VecDeque,
    fmt::{self, Display, Write as _},
};

/// One error for people: a guest's, or why a component or a manifest was refused. It is kept for every module and every
/// dead letter, and shown in one line of the tree.
pub const MESSAGE_BYTES_MAX: usize = 1024;
/// A name within a message, such as the domain of an error.
pub const NAME_BYTES_MAX: usize = 64;
/// A backtrace. Twenty frames, which is the most that wasmtime takes, with the names that Rust gives, need a quarter of it.
pub const BACKTRACE_BYTES_MAX: usize = 16 * 1024;

/// Where a value that is written piece by piece is stopped. What it would have written after that is not counted.
const WRITTEN_BYTES_MAX: usize = 1024 * 1024;

/// The longest mark is `… [18446744073709551615 bytes cut]` between two ends of lines: 38 bytes, rounded up.
const MARK_BYTES_MAX: usize = 48;

/// The text, or its beginning and how much was cut. At most `bytes_max` bytes, which must be more than a mark takes.
pub fn cut(text: impl Display, bytes_max: usize) -> String {
    let mut head = Head::new(bytes_max);
    // It fails where it stops a text that goes on.
    let _ = write!(head, "{text}");
    if head.total <= bytes_max {
        return head.text;
    }
    let end = head.text.floor_char_boundary(bytes_max - MARK_BYTES_MAX);
    head.text.truncate(end);
    let _ = write!(head.text, "… [{} bytes cut]", head.total - end);
    head.text
}

/// The same, cut in the middle: most of the beginning and some of the end. Whole lines, unless one is longer than that.
pub fn cut_middle(text: impl Display, bytes_max: usize) -> String {
    let room = bytes_max.saturating_sub(MARK_BYTES_MAX);
    let mut ends = Ends { head: Head::new(bytes_max), tail: VecDeque::new(), tail_bytes_max: room / 4 };
    let _ = write!(ends, "{text}");
    let Ends { head: Head { mut text, total, .. }, mut tail, .. } = ends;
    if total <= bytes_max {
        return text;
    }
    text.truncate(text.floor_char_boundary(room - room / 4));
    if let Some(line) = text.rfind('\n').filter(|line| *line >= room / 4) {
        text.truncate(line);
    }
    let tail = tail.make_contiguous();
    let is_inside = |byte: &&u8| **byte & 0xc0 == 0x80;
    let tail = &tail[tail.iter().take_while(is_inside).count()..];
    let tail = std::str::from_utf8(tail).unwrap_or_default();
    let tail = tail.split_once('\n').map_or(tail, |(_, lines)| lines);
    let gone = total - text.len() - tail.len();
    let _ = write!(text, "\n… [{gone} bytes cut]\n{tail}");
    text
}

/// Keeps the beginning.
struct Head {
    text: String,
    bytes_max: usize,
    /// Of everything that was written.
    total: usize,
}

impl Head {
    fn new(bytes_max: usize) -> Self {
        assert!(bytes_max > MARK_BYTES_MAX, "a bound of {bytes_max} bytes has no room for the mark");
        Self { text: String::new(), bytes_max, total: 0 }
    }
}

impl fmt::Write for Head {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        self.total = self.total.saturating_add(piece.len());
        let room = self.bytes_max - self.text.len();
        self.text.push_str(&piece[..piece.floor_char_boundary(room)]);
        if self.total > WRITTEN_BYTES_MAX { Err(fmt::Error) } else { Ok(()) }
    }
}

/// Keeps the beginning and the end.
struct Ends {
    head: Head,
    tail: VecDeque<u8>,
    tail_bytes_max: usize,
}

impl fmt::Write for Ends {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let written = self.head.write_str(piece);
        let newest = &piece.as_bytes()[piece.len().saturating_sub(self.tail_bytes_max)..];
        let over = (self.tail.len() + newest.len()).saturating_sub(self.tail_bytes_max);
        self.tail.drain(..over);
        self.tail.extend(newest);
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_thirty_mebibytes_is_kept_in_a_kibibyte_and_says_so() {
        let text = "é".repeat(15 << 20);
        let kept = cut(&text, MESSAGE_BYTES_MAX);
        assert!(kept.len() <= MESSAGE_BYTES_MAX, "{}", kept.len());
        let (beginning, mark) = kept.split_once('…').unwrap();
        assert!(beginning.len() > MESSAGE_BYTES_MAX - 2 * MARK_BYTES_MAX && beginning.chars().all(|c| c == 'é'));
        assert_eq!(mark, format!(" [{} bytes cut]", text.len() - beginning.len()));
        assert_eq!(cut(&kept, MESSAGE_BYTES_MAX), kept, "what is cut is not cut again");
    }

    #[test]
    fn what_fits_stays_as_it_is() {
        let longest = "x".repeat(NAME_BYTES_MAX);
        for text in ["", "short", longest.as_str()] {
            assert_eq!(cut(text, NAME_BYTES_MAX), text);
            assert_eq!(cut_middle(text, NAME_BYTES_MAX), text);
        }
        assert!(cut(format_args!("{longest}x"), NAME_BYTES_MAX).ends_with("bytes cut]"));
    }

    #[test]
    fn a_text_that_is_made_piece_by_piece_is_never_there_as_a_whole() {
        struct Endless;

        impl Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                (0..100_000).try_for_each(|_| f.write_str("0123456789"))
            }
        }

        let (mut head, endless) = (Head::new(100), Endless);
        write!(head, "{endless}").unwrap();
        assert_eq!((head.text.len(), head.total), (100, 1_000_000));
        assert!(head.text.capacity() <= 200, "{}", head.text.capacity());
        assert!(cut_middle(endless, 100).len() <= 100);
    }

    #[test]
    fn a_text_without_end_is_stopped() {
        struct Endless;

        impl Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("0123456789")?;
                }
            }
        }

        let kept = cut(Endless, 100);
        assert!(kept.starts_with("0123456789") && kept.ends_with("bytes cut]"), "{kept}");
        assert!(cut_middle(Endless, 100).len() <= 100);
    }

    #[test]
    fn a_backtrace_keeps_both_ends_and_whole_frames() {
        let frames: Vec<String> = (0..1000).map(|n| format!("  {n:>3}: 0x{n:04x} - guest!frame-{n}")).collect();
        let text = frames.join("\n");
        let kept = cut_middle(&text, 1024);
        assert!(kept.len() <= 1024, "{}", kept.len());
        let (beginning, end) = kept.split_once("\n… [").unwrap();
        let (gone, end) = end.split_once(" bytes cut]\n").unwrap();
        assert!(text.starts_with(&format!("{beginning}\n")) && text.ends_with(&format!("\n{end}")), "{kept}");
        assert_eq!(gone.parse::<usize>().unwrap(), text.len() - beginning.len() - end.len());
    }

    #[test]
    fn a_frame_whose_name_is_longer_than_the_bound_is_cut_within() {
        let text = format!("wasm backtrace:\n    0: guest!{}\n    1: guest!on-event", "é".repeat(1 << 20));
        let kept = cut_middle(&text, 1024);
        assert!(kept.len() <= 1024 && kept.starts_with("wasm backtrace:\n    0: guest!é"), "{kept}");
        assert!(kept.ends_with("    1: guest!on-event"), "{kept}");
    }
}
