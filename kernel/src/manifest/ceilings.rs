//! How long the texts and lists of a manifest may be. They are kept in memory, with every recording and in the tree, and
//! some go to endpoints with every request.

use std::ops::Range;

use toml::Spanned;

use super::values::Finding;

pub(crate) const VERSION_BYTES_MAX: usize = 64;
pub(crate) const DESCRIPTION_BYTES_MAX: usize = 1024;
pub(crate) const AUTHORS_MAX: usize = 32;
pub(crate) const AUTHOR_BYTES_MAX: usize = 256;
pub(crate) const SUBSCRIPTIONS_MAX: usize = 128;
/// Addresses of one subscription, or values at one position of its topics. Endpoints refuse longer lists.
pub(crate) const FILTER_VALUES_MAX: usize = 1000;
/// More blocks than the fastest chains make in a day.
pub(crate) const CONFIRMATIONS_MAX: u64 = 1_000_000;
/// It is part of the name of its source, which is written with every event.
pub(crate) const SCHEDULE_BYTES_MAX: usize = 256;
/// With the names of the tables that it is in; each value carries them.
pub(crate) const CONFIG_KEY_BYTES_MAX: usize = nexum_config_schema::KEY_BYTES_MAX;

/// Refuses a text that is too long, without repeating it.
pub(crate) fn text(value: &Spanned<String>, what: &str, bytes_max: usize) -> Result<(), Finding> {
    let bytes = value.get_ref().len();
    if bytes > bytes_max {
        return Err((value.span(), format!("{what} has {bytes} bytes: expected at most {bytes_max}")));
    }
    Ok(())
}

/// Refuses a list that is too long. `at` is where it is written.
pub(crate) fn list(at: impl FnOnce() -> Range<usize>, what: &str, count: usize, most: usize) -> Result<(), Finding> {
    if count > most {
        return Err((at(), format!("{count} {what}: expected at most {most}")));
    }
    Ok(())
}

/// Refuses the first text past the end of a list, or the first that is too long.
pub(crate) fn texts(values: &[Spanned<String>], what: &str, most: usize, bytes_max: usize) -> Result<(), Finding> {
    if let Some(beyond) = values.get(most) {
        return Err((beyond.span(), format!("{} in {what}: expected at most {most}", values.len())));
    }
    values.iter().try_for_each(|value| text(value, &format!("an entry of {what}"), bytes_max))
}
