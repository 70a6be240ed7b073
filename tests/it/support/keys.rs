//! The sandbox' keys. RSA keys take a machine long to make, so all stories share those that the first of them has made.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Mutex};

use souk::sandbox::{Sandbox, Settings, start};

/// Files by their names.
static KEYS: Mutex<Vec<(String, Vec<u8>)>> = Mutex::new(Vec::new());

/// A sandbox that finds its keys in its directory, if any were made.
pub(crate) async fn open_sandbox(settings: Settings) -> Sandbox {
    let dir = settings.dir.clone();
    lend_keys(&dir);
    let sandbox = start(settings).await.expect("the sandbox starts");
    keep_keys(&dir);
    sandbox
}

/// Lays the keys into the directory of a sandbox that is new.
pub(crate) fn lend_keys(dir: &Path) {
    let keys = KEYS.lock().expect("no panic").clone();
    if dir.exists() && fs::read_dir(dir).expect("a directory").next().is_some() {
        return;
    }
    fs::create_dir_all(dir).expect("a directory");
    for (name, text) in keys {
        let mode = if name.ends_with(".key") { 0o600 } else { 0o644 };
        fs::write(dir.join(&name), text).expect("a file");
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).expect("its mode");
    }
}

/// Keeps what a sandbox has made, if nobody has before.
pub(crate) fn keep_keys(dir: &Path) {
    let mut keys = KEYS.lock().expect("no panic");
    if !keys.is_empty() {
        return;
    }
    for file in fs::read_dir(dir).expect("a directory").flatten() {
        let name = file.file_name().into_string().expect("UTF-8");
        if name.ends_with(".key") || name.ends_with(".pem") {
            keys.push((name, fs::read(file.path()).expect("a file")));
        }
    }
}
