//! What the machine gives the server: a user to run as, directories that user may enter, binaries, memory.

use std::{
    env, fmt,
    fs::{self, DirBuilder, Permissions},
    io::{self, ErrorKind},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown},
    },
    path::{self, Path, PathBuf},
    process::Stdio,
};

use nix::unistd::{Gid, Uid, User};
use sha2::{Digest, Sha256};
use tokio::process::Command;

use super::{PostgresError, at, socket_name};

/// The oldest major version that Souk is written for.
pub(super) const OLDEST: u32 = 14;
/// The longest path that `sockaddr_un` carries, without its NUL.
const SUN_PATH_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
/// Where packages put `<parent>/<prefix><version>/bin`.
const PACKAGES: [(&str, &str); 5] = [
    ("/usr/lib/postgresql", ""), // Debian, Ubuntu
    ("/usr", "pgsql-"),          // postgresql.org for Fedora and RHEL
    ("/opt/homebrew/opt", "postgresql@"),
    ("/usr/local/opt", "postgresql@"),
    ("/Applications/Postgres.app/Contents/Versions", ""),
];

/// The operating-system user the server runs as. Postgres refuses to be root, so for root it is the owner of the existing
/// cluster, else `postgres`, else `nobody`; for anybody else it is they themselves.
#[derive(Debug)]
pub(super) struct Account {
    uid: u32,
    gid: u32,
    /// Whether we are root and must become this user.
    switch: bool,
}

impl Account {
    pub(super) fn for_data(data: &Path) -> Result<Self, PostgresError> {
        let us = Uid::effective();
        let root = us.is_root();
        match fs::metadata(data) {
            Ok(found) if found.uid() == 0 || !(root || found.uid() == us.as_raw()) => {
                Err(PostgresError::NotOurs { path: data.to_owned(), owner: found.uid() })
            }
            Ok(found) => Ok(Self { uid: found.uid(), gid: found.gid(), switch: root }),
            Err(error) if error.kind() != ErrorKind::NotFound => Err(at(data)(error)),
            Err(_) if root => {
                let user = ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).ok().flatten());
                let user = user.ok_or(PostgresError::NoAccount)?;
                Ok(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw(), switch: true })
            }
            Err(_) => Ok(Self { uid: us.as_raw(), gid: Gid::effective().as_raw(), switch: false }),
        }
    }

    /// A command as this user, with nothing of our environment, directory or input.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
        if self.switch {
            command.uid(self.uid).gid(self.gid); // std gives up root's supplementary groups along with them
        }
        command
    }

    fn may_enter(&self, dir: &Path) -> bool {
        let Ok(found) = fs::metadata(dir) else { return false };
        let bit = match (found.uid() == self.uid, found.gid() == self.gid) {
            (true, _) => 0o100,
            (false, true) => 0o010,
            (false, false) => 0o001,
        };
        found.mode() & bit != 0
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match User::from_uid(Uid::from_raw(self.uid)) {
            Ok(Some(user)) => write!(f, "user {}", user.name),
            Ok(None) | Err(_) => write!(f, "uid {}", self.uid), // a container's bare number
        }
    }
}

/// Whether the server, as the user it would run as, could reach this directory. It need not exist yet.
///
/// # Errors
/// [`PostgresError::Unreachable`] names the first parent in the way, such as root's home;
/// [`PostgresError::NotOurs`] and [`PostgresError::NoAccount`] that there is no such user.
pub fn usable_by_server(data_dir: &Path) -> Result<(), PostgresError> {
    let account = Account::for_data(&data_dir.join("data"))?;
    if !account.switch {
        return Ok(()); // as ourselves we shall hear it from the first file we make
    }
    let absolute = path::absolute(data_dir).map_err(at(data_dir))?;
    let existing = absolute.ancestors().find_map(|dir| fs::canonicalize(dir).ok()).unwrap_or_default();
    match existing.ancestors().filter(|dir| !account.may_enter(dir)).last() {
        Some(parent) => Err(PostgresError::Unreachable { parent: parent.to_owned(), account: account.to_string() }),
        None => Ok(()),
    }
}

/// The directory that holds everything, by its one true name: the server works elsewhere, and the name is compared.
pub(super) fn make_root(data_dir: &Path) -> Result<PathBuf, PostgresError> {
    if !data_dir.exists() {
        fs::create_dir_all(data_dir).map_err(at(data_dir))?;
        fs::set_permissions(data_dir, Permissions::from_mode(0o711)).map_err(at(data_dir))?;
    }
    let root = fs::canonicalize(data_dir).map_err(at(data_dir))?;
    match root.to_str() {
        Some(_) => Ok(root),
        None => Err(at(data_dir)(io::Error::new(ErrorKind::InvalidFilename, "not UTF-8"))),
    }
}

/// Makes a directory that nobody but the server's user, and root, may enter; or finds that it is one.
pub(super) fn private_dir(path: &Path, account: &Account) -> Result<(), PostgresError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(at(path)(error)),
        Ok(()) | Err(_) => {}
    }
    let found = fs::symlink_metadata(path).map_err(at(path))?;
    let known_owner = found.uid() == account.uid || found.uid() == Uid::effective().as_raw();
    if !found.is_dir() || !known_owner || found.mode() & 0o077 != 0 {
        return Err(PostgresError::NotPrivate { path: path.to_owned() });
    }
    if found.uid() != account.uid {
        lchown(path, Some(account.uid), Some(account.gid)).map_err(at(path))?;
    }
    Ok(())
}

/// `s/`; or, when its name is too long for a socket or has a comma, at which Postgres splits a list, a directory in
/// `/tmp` that is found again by the same name.
pub(super) fn socket_dir(root: &Path, account: &Account) -> Result<PathBuf, PostgresError> {
    let mut dir = root.join("s");
    let name = dir.join(socket_name()).into_os_string();
    if name.len() > SUN_PATH_MAX || name.as_bytes().iter().any(|byte| b",\"".contains(byte)) {
        let digest = Sha256::digest(root.as_os_str().as_bytes());
        let short: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        dir = PathBuf::from(format!("/tmp/souk-{}-{short}", account.uid));
    }
    private_dir(&dir, account)?;
    Ok(dir)
}

/// The directory of the first usable `initdb`, `pg_ctl` and `postgres`; for an existing cluster, of its very version.
pub(super) async fn find_binaries(
    asked: Option<PathBuf>,
    data: &Path,
    account: &Account,
) -> Result<PathBuf, PostgresError> {
    let written_by = fs::read_to_string(data.join("PG_VERSION")).ok().and_then(|text| text.trim().parse::<u32>().ok());
    let named = env::var_os("SOUK_POSTGRES_BIN").filter(|name| !name.is_empty()).map(PathBuf::from);
    let asked = asked.or(named);
    let places = match &asked {
        Some(dir) => vec![fs::canonicalize(dir).map_err(at(dir))?],
        None => usual_places(),
    };
    let mut found_other = false;
    for bin_dir in places {
        match major_version(&bin_dir, account).await {
            Some(major) if major >= OLDEST && written_by.is_none_or(|writer| writer == major) => return Ok(bin_dir),
            found => found_other |= found.is_some(),
        }
    }
    Err(match (written_by, asked) {
        (Some(major), _) if found_other => PostgresError::OtherVersion { data: data.to_owned(), major },
        (_, Some(bin_dir)) => PostgresError::NotPostgres { bin_dir },
        (_, None) => PostgresError::NotInstalled,
    })
}

/// What is on the PATH, where it really lies, then each packager's place, its newest version first.
fn usual_places() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).filter_map(|dir| fs::canonicalize(dir.join("postgres")).ok());
    let mut places: Vec<PathBuf> = on_path.filter_map(|postgres| Some(postgres.parent()?.to_owned())).collect();
    for (parent, prefix) in PACKAGES {
        let names = fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let mut versions: Vec<u32> =
            names.filter_map(|name| name.to_str()?.strip_prefix(prefix)?.parse().ok()).collect();
        versions.sort_unstable();
        places.extend(versions.iter().rev().map(|version| Path::new(parent).join(format!("{prefix}{version}/bin"))));
    }
    places
}

/// The `15` of "postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)"; asked as the server's user, who must be able to.
async fn major_version(bin_dir: &Path, account: &Account) -> Option<u32> {
    if !bin_dir.join("initdb").exists() || !bin_dir.join("pg_ctl").exists() {
        return None;
    }
    let answer = account.command(&bin_dir.join("postgres")).arg("--version").output().await.ok()?;
    let text = String::from_utf8(answer.stdout).ok()?;
    let version = text.split_whitespace().nth(2)?;
    version.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

/// Megabytes: a quarter of what the machine has, or the container around us.
pub(super) fn quarter_of_memory() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").unwrap_or_default(); // "MemTotal:  3995884 kB" and more
    let machine = machine.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse::<u64>().ok());
    let container = fs::read_to_string("/sys/fs/cgroup/memory.max").unwrap_or_default(); // bytes, or "max"
    let container = container.trim().parse::<u64>().ok().map(|bytes| bytes / 1024);
    machine.into_iter().chain(container).min().unwrap_or(0) / 1024 / 4
}
