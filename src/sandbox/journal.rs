//! Books on disk: one JSON line per change, in the order of the changes. Each half of the sandbox keeps its own.
//!
//! One thread writes. It takes whatever has queued, writes it, syncs once, and only then tells those who wait, so that a
//! batch grows as large as the disk is slow. The queue is bounded by the calls in flight: each waits for its own line.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, BufRead, BufReader, Write},
    path::Path,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;

/// A batch is synced when it has grown to this, even if more is queued.
const BATCH_BYTES: usize = 4 << 20;
/// How long a sandbox waits for the one before it to let go of the books.
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

enum Line {
    Text(Vec<u8>),
    Close,
}

pub(super) struct Journal {
    lines: mpsc::Sender<Line>,
    appended: AtomicU64,
    synced: watch::Receiver<u64>,
}

impl Journal {
    /// Locks and replays the journal in `dir`, drops a line that a crash has torn, and goes on from there. Blocks.
    pub(super) fn open<C: DeserializeOwned>(dir: &Path, apply: impl FnMut(C)) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).read(true).append(true);
        let file = options.open(dir.join("journal.jsonl"))?;
        lock(&file)?;
        let whole = replay(&file, apply)?;
        file.set_len(whole)?;
        file.sync_all()?;
        File::open(dir)?.sync_all()?; // the name of a new file lives in its directory

        let (lines, queue) = mpsc::channel();
        let (tell, synced) = watch::channel(0);
        let thread = std::thread::Builder::new().name("sandbox-journal".into());
        thread.spawn(move || write(file, &queue, &tell))?;
        Ok(Self { lines, appended: AtomicU64::new(0), synced })
    }

    /// Queues a change and says which number [`Journal::synced`] has to reach. Call it under the lock of the books: the
    /// file must have the order of the changes.
    pub(super) fn append(&self, change: &impl Serialize) -> u64 {
        let mut line = serde_json::to_vec(change).expect("a change is plain data");
        line.push(b'\n');
        // A journal that has failed takes no more lines; `synced` then tells every caller.
        let _closed = self.lines.send(Line::Text(line));
        self.appended.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The number of the last line queued.
    pub(super) fn last(&self) -> u64 {
        self.appended.load(Ordering::Relaxed)
    }

    /// Returns when line `number` and all before it are on disk.
    ///
    /// # Errors
    /// The disk has failed, or the sandbox is stopping: nothing may be said about this change.
    pub(super) async fn synced(&self, number: u64) -> io::Result<()> {
        let mut synced = self.synced.clone();
        let reached = synced.wait_for(|synced| *synced >= number).await;
        reached.map(|_| ()).map_err(|_| io::Error::other("the sandbox's journal is closed"))
    }

    /// Writes what is queued, lets go of the file and returns.
    pub(super) async fn close(&self) {
        let _closed = self.lines.send(Line::Close);
        let mut synced = self.synced.clone();
        let _gone = synced.wait_for(|_| false).await;
    }
}

fn lock(file: &File) -> io::Result<()> {
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::WouldBlock, "another sandbox keeps its books in this directory"))
}

/// Applies every whole line and returns their length; what follows the last line feed was torn by a crash.
fn replay<C: DeserializeOwned>(file: &File, mut apply: impl FnMut(C)) -> io::Result<u64> {
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut whole = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Ok(whole);
        }
        let change = serde_json::from_slice(&line).map_err(|error| damaged(whole, &error))?;
        apply(change);
        whole += length as u64;
    }
}

fn damaged(at: u64, error: &serde_json::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the sandbox's journal is damaged at byte {at}: {error}"))
}

fn write(mut file: File, queue: &mpsc::Receiver<Line>, tell: &watch::Sender<u64>) {
    let mut synced = 0;
    let mut open = true;
    while open && let Ok(first) = queue.recv() {
        let mut batch = Vec::new();
        let mut next = Some(first);
        while let Some(Line::Text(line)) = &next {
            batch.extend_from_slice(line);
            synced += 1;
            next = if batch.len() < BATCH_BYTES { queue.try_recv().ok() } else { None };
        }
        open = !matches!(next, Some(Line::Close));
        if let Err(error) = file.write_all(&batch).and_then(|()| file.sync_data()) {
            tracing::error!(%error, "the sandbox cannot write its books and says nothing more");
            return;
        }
        tell.send_replace(synced);
    }
}
