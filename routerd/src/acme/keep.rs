//! Where the account and the certificates are kept: files that only this user reads, replaced whole.
//!
//! `account-HASH.json` for each CA (the hash is of its directory's address), and `HOST.pem` for each host: the private
//! key first, then the chain, in one file, so that the two never come apart.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use instant_acme::AccountCredentials;
use serde::{Deserialize, Serialize};

use crate::durable::{Lock, beside, sha256, sync_folder};

/// The most bytes of a file.
const FILE_MAX: u64 = 1 << 20;

/// An account with a CA.
#[derive(Serialize, Deserialize)]
pub(crate) struct Kept {
    /// Where the CA may write to.
    pub(crate) email: Option<String>,
    pub(crate) credentials: AccountCredentials,
}

/// A folder of them. All calls block: from a task go through `spawn_blocking`.
#[derive(Clone, Debug)]
pub(crate) struct Keep(PathBuf);

impl Keep {
    /// Makes the folder if there is none, readable by this user alone.
    ///
    /// # Errors
    /// It cannot be made or written to, or others may read it.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mode = fs::metadata(folder)?.permissions().mode();
        if mode & 0o077 != 0 {
            let why = format!("others may look into it (mode {:o}): chmod 700", mode & 0o777);
            return Err(io::Error::new(ErrorKind::PermissionDenied, why));
        }
        let keep = Self(folder.to_owned());
        // Another process may try it at the same time.
        let probe = format!("probe-{}", std::process::id());
        keep.write(&probe, b"")?;
        fs::remove_file(folder.join(probe))?;
        Ok(keep)
    }

    /// The right to order for this folder; `None` if another process has it.
    pub(crate) fn lock(&self) -> io::Result<Option<Lock>> {
        Lock::take(&self.0.join("orders"))
    }

    /// The account with that CA; `None`: there is none yet.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub(crate) fn account(&self, directory: &str) -> io::Result<Option<Kept>> {
        match self.read(&account_name(directory))? {
            None => Ok(None),
            Some(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from),
        }
    }

    pub(crate) fn keep_account(&self, directory: &str, account: &Kept) -> io::Result<()> {
        self.write(&account_name(directory), &serde_json::to_vec_pretty(account)?)
    }

    /// The CA knows it no longer. It is put aside: a CA may be wrong, and some give no second one out.
    pub(crate) fn forget_account(&self, directory: &str) -> io::Result<()> {
        let path = self.0.join(account_name(directory));
        fs::rename(&path, beside(&path, "old"))
    }

    /// The file of a host.
    pub(crate) fn place(&self, host: &str) -> PathBuf {
        self.0.join(certificate_name(host))
    }

    /// Key and chain of a host, as PEM.
    pub(crate) fn certificate(&self, host: &str) -> io::Result<Option<Vec<u8>>> {
        self.read(&certificate_name(host))
    }

    pub(crate) fn keep_certificate(&self, host: &str, key_and_chain: &[u8]) -> io::Result<()> {
        self.write(&certificate_name(host), key_and_chain)
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.0.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut bytes = Vec::new();
        file.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_MAX {
            return Err(io::Error::new(ErrorKind::FileTooLarge, "the file is larger than 1 MiB"));
        }
        Ok(Some(bytes))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.0.join(name);
        let temporary = beside(&path, "tmp");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes).and_then(|()| file.sync_all())?;
        fs::rename(&temporary, &path)?;
        sync_folder(&path)
    }
}

fn account_name(directory: &str) -> String {
    format!("account-{}.json", &sha256(directory.as_bytes())[..16])
}

/// Hosts are names that were checked: letters, digits, dots and hyphens.
fn certificate_name(host: &str) -> String {
    format!("{host}.pem")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_this_users_alone_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acme");
        let keep = Keep::open(&path).unwrap();
        assert_eq!(keep.certificate("shop.test").unwrap(), None);
        keep.keep_certificate("shop.test", b"one").unwrap();
        keep.keep_certificate("shop.test", b"two").unwrap();
        assert_eq!(keep.certificate("shop.test").unwrap().unwrap(), b"two");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("shop.test.pem"))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "nothing is left beside it");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(Keep::open(&path).unwrap_err().to_string().contains("others may look into it"));
    }

    #[test]
    fn an_account_that_is_none_is_said_and_each_ca_has_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let keep = Keep::open(&folder.path().join("acme")).unwrap();
        assert!(keep.account("https://a.test/dir").unwrap().is_none());
        keep.write(&account_name("https://a.test/dir"), b"{}").unwrap();
        assert!(keep.account("https://a.test/dir").is_err());
        assert!(keep.account("https://b.test/dir").unwrap().is_none());
    }
}
