//! Recent headers of every chain, kept in the state directory over restarts.
//!
//! They are how a chain actor leads a module back whose last block was retracted while the engine was down. A file that
//! is lost or damaged is no error: such a module is then told so, and nothing else is affected.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nexum_chain::{History, Link};
use tokio::task::AbortHandle;

/// Headers that a crash may cost: one or two blocks of the fastest common chains.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

struct Kept {
    history: History,
    file: PathBuf,
    /// The newest header that the file holds.
    saved: Mutex<Option<Link>>,
}

/// The histories of all chains and their files.
#[derive(Clone, Default)]
pub struct Headers(Arc<BTreeMap<u64, Kept>>);

impl Headers {
    /// Reads what earlier runs kept of these chains.
    pub fn open(state_dir: &Path, chains: impl IntoIterator<Item = u64>) -> Self {
        let directory = state_dir.join("headers");
        let kept = chains.into_iter().map(|chain| {
            let file = directory.join(format!("{chain}.json"));
            let links = read(&file).unwrap_or_else(|error| {
                tracing::warn!(chain, file = %file.display(), "the headers of earlier runs are lost: {error}");
                Vec::new()
            });
            let saved = Mutex::new(links.last().copied());
            (chain, Kept { history: History::new(links), file, saved })
        });
        Self(Arc::new(kept.collect()))
    }

    /// The history of a chain; one that is not kept starts empty.
    pub fn history(&self, chain: u64) -> History {
        self.0.get(&chain).map(|kept| kept.history.clone()).unwrap_or_default()
    }

    /// Writes what is new, now and then, until the returned handle is aborted.
    pub fn keep(&self) -> AbortHandle {
        let headers = self.clone();
        let keeping = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(SAVE_INTERVAL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                headers.save().await;
            }
        });
        keeping.abort_handle()
    }

    /// Writes what is new.
    pub async fn save(&self) {
        let headers = self.clone();
        let saved = tokio::task::spawn_blocking(move || headers.0.iter().for_each(|(chain, kept)| kept.save(*chain)));
        if let Err(error) = saved.await {
            tracing::error!(%error, "headers were not saved");
        }
    }
}

impl Kept {
    fn save(&self, chain: u64) {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let links = self.history.headers();
        if links.last() == saved.as_ref() {
            return;
        }
        match write(&self.file, &links) {
            Ok(()) => *saved = links.last().copied(),
            Err(error) => tracing::warn!(chain, file = %self.file.display(), "headers were not saved: {error}"),
        }
    }
}

fn read(file: &Path) -> io::Result<Vec<Link>> {
    match fs::read(file) {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Replaces the file in one step. Not synced: a power failure costs at most the file, as the head of this page says.
fn write(file: &Path, links: &[Link]) -> io::Result<()> {
    let draft = file.with_extension("draft");
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut writer = io::BufWriter::new(fs::File::create(&draft)?);
    serde_json::to_writer(&mut writer, links)?;
    writer.flush()?;
    fs::rename(draft, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexum_host_ifaces::Hash;

    fn link(number: u64) -> Link {
        Link { number, hash: Hash([number as u8; 32]), parent: Hash([number as u8 - 1; 32]) }
    }

    #[tokio::test]
    async fn headers_survive_the_process_and_a_damaged_file_does_no_harm() {
        let directory = tempfile::TempDir::new().unwrap();
        let headers = Headers::open(directory.path(), [1, 5]);
        headers.history(1).add(link(7));
        headers.save().await;
        headers.history(1).add(link(8));
        headers.save().await;
        let again = Headers::open(directory.path(), [1, 5]);
        assert_eq!(again.history(1).headers(), [link(7), link(8)]);
        assert!(again.history(5).headers().is_empty());

        fs::write(directory.path().join("headers/1.json"), "[{").unwrap();
        assert!(Headers::open(directory.path(), [1]).history(1).headers().is_empty());
    }
}
