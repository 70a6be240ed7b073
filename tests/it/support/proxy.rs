//! A line between the engine and Postgres that can be cut, before or after a batch has passed, or held up.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
};

use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::watch,
};

/// Where the journal's line is cut next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Cut {
    /// Before its next message reaches Postgres.
    Before = 1,
    /// After Postgres has its next message and has answered; the answer is lost.
    After = 2,
    /// As Postgres receives its next message: nobody knows what becomes of it.
    During = 3,
    /// As [`Cut::After`], of its next `commit` or single-statement batch.
    AfterCommit = 4,
}

pub(crate) struct Proxy {
    dir: TempDir,
    control: Arc<Control>,
}

struct Control {
    upstream: PathBuf,
    cut: AtomicU8,
    cuts: AtomicU32,
    held_up: watch::Sender<bool>,
}

impl Proxy {
    /// Begins to listen in front of a server.
    pub(crate) fn before(connect: &PgConnectOptions) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = ".s.PGSQL.5432";
        let upstream = connect.get_socket().expect("the embedded server has a socket").join(socket);
        let control = Arc::new(Control {
            upstream,
            cut: AtomicU8::new(0),
            cuts: AtomicU32::new(0),
            held_up: watch::channel(false).0,
        });
        let listener = UnixListener::bind(dir.path().join(socket)).expect("a free name");
        let shared = Arc::clone(&control);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let control = Arc::clone(&shared);
                tokio::spawn(async move { carry(client, &control).await });
            }
        });
        Self { dir, control }
    }

    /// The way through it.
    pub(crate) fn through(&self, connect: &PgConnectOptions) -> PgConnectOptions {
        connect.clone().socket(self.dir.path())
    }

    /// Cuts the journal's line at the next occasion.
    pub(crate) fn cut(&self, how: Cut) {
        self.control.cut.store(how as u8, Ordering::SeqCst);
    }

    /// Lines cut so far.
    pub(crate) fn cuts(&self) -> u32 {
        self.control.cuts.load(Ordering::SeqCst)
    }

    /// Keeps everything that the journal's line should carry from Postgres, or lets it pass.
    pub(crate) fn hold_up(&self, held_up: bool) {
        self.control.held_up.send_replace(held_up);
    }
}

impl Control {
    /// How the message is to be cut, if it is.
    fn strikes(&self, message: &[u8]) -> Option<Cut> {
        let how = match self.cut.load(Ordering::SeqCst) {
            1 => Cut::Before,
            2 => Cut::After,
            3 => Cut::During,
            4 if message.windows(6).any(|word| word == b"commit") => Cut::After,
            _ => return None,
        };
        self.cut.store(0, Ordering::SeqCst);
        self.cuts.fetch_add(1, Ordering::SeqCst);
        Some(how)
    }

    async fn passes(&self) {
        self.held_up.subscribe().wait_for(|held_up| !held_up).await.ok();
    }
}

async fn carry(mut client: UnixStream, control: &Control) {
    let Ok(mut server) = UnixStream::connect(&control.upstream).await else { return };
    let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let Ok(first) = client.read(&mut up).await else { return };
    let journal = up[..first].windows(12).any(|name| name == b"souk journal");
    if server.write_all(&up[..first]).await.is_err() {
        return;
    }
    loop {
        tokio::select! {
            said = client.read(&mut up) => {
                let Some(length) = said.ok().filter(|length| *length > 0) else { return };
                let cut = if journal { control.strikes(&up[..length]) } else { None };
                if cut == Some(Cut::Before) || server.write_all(&up[..length]).await.is_err() {
                    return;
                }
                match cut {
                    None => {}
                    Some(Cut::After | Cut::AfterCommit) => return drop(server.read(&mut down).await),
                    Some(Cut::Before | Cut::During) => return,
                }
            }
            said = server.read(&mut down) => {
                let Some(length) = said.ok().filter(|length| *length > 0) else { return };
                if journal {
                    control.passes().await;
                }
                if client.write_all(&down[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
