//! Who has something in a folder that several machines share. A lease is a file that its owner touches again and again; one that
//! nobody has touched for a while is free. Only what network file systems keep to is relied upon: a file is made by one caller only,
//! and times are those of the file server, so that no two clocks are compared.
//!
//! Each owner's file bears the next number, `NAME.7`: the one who makes it first has the lease, and whoever finds a higher number than
//! his own has lost it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};

use crate::files::remove_if_there;

/// A lease that this process has.
#[derive(Debug)]
pub struct Lease {
    folder: PathBuf,
    name: String,
    number: u64,
    is_given_back: bool,
}

/// Whose a lease is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// What the owner calls himself.
    pub owner: String,
    /// How long he has not touched it.
    pub age: Duration,
}

impl Lease {
    /// Takes the lease `name` in `folder` for `owner`, unless somebody else has touched it within `ttl`.
    ///
    /// Errors: the folder cannot be read or written.
    pub fn take(folder: &Path, name: &str, owner: &str, ttl: Duration) -> io::Result<Option<Self>> {
        let numbers = numbers(folder, name)?;
        let last = numbers.last().copied().unwrap_or_default();
        if let Some(holder) = holder(folder, name)?
            && holder.owner != owner
            && holder.age < ttl
        {
            return Ok(None);
        }
        let lease = Self { folder: folder.to_owned(), name: name.to_owned(), number: last + 1, is_given_back: true };
        match OpenOptions::new().write(true).create_new(true).open(lease.path()) {
            Ok(mut file) => {
                file.write_all(owner.as_bytes())?;
                file.sync_all()?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                std::mem::forget(lease); // it is the other's
                return Ok(None);
            }
            Err(error) => {
                std::mem::forget(lease);
                return Err(error);
            }
        }
        if !lease.is_highest()? {
            return Ok(None); // somebody was faster by a whole lease
        }
        for number in numbers {
            remove_if_there(&folder.join(format!("{name}.{number}")))?;
        }
        Ok(Some(lease))
    }

    /// It stays when this is dropped, and is free once it was not touched for a while.
    pub fn keep(mut self) -> Self {
        self.is_given_back = false;
        self
    }

    /// Touches it. `false` if it is another's by now.
    pub fn renew(&self) -> io::Result<bool> {
        match File::open(self.path()) {
            Ok(file) => touch(&file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
        self.is_highest()
    }

    fn is_highest(&self) -> io::Result<bool> {
        Ok(numbers(&self.folder, &self.name)?.last() == Some(&self.number))
    }

    fn path(&self) -> PathBuf {
        self.folder.join(format!("{}.{}", self.name, self.number))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.is_given_back
            && let Err(error) = remove_if_there(&self.path())
        {
            tracing::warn!(%error, path = %self.path().display(), "a lease is not given back: it is free in a while");
        }
    }
}

/// Who has the lease `name` in `folder`, whether he still lives or not.
pub fn holder(folder: &Path, name: &str) -> io::Result<Option<Holder>> {
    let Some(number) = numbers(folder, name)?.last().copied() else { return Ok(None) };
    let path = folder.join(format!("{name}.{number}"));
    let age = match age(folder, &path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        age => age?,
    };
    Ok(Some(Holder { owner: fs::read_to_string(path).unwrap_or_default(), age }))
}

/// How long ago a file was touched, by the clock of the file server.
pub fn age(folder: &Path, path: &Path) -> io::Result<Duration> {
    // opened, so that a network file system asks its server
    let touched = File::open(path)?.metadata()?.modified()?;
    Ok(now(folder)?.duration_since(touched).unwrap_or_default())
}

/// Gives an open file the present time of its file server.
pub fn touch(file: &File) -> io::Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    Ok(futimens(file, &Timestamps { last_access: now, last_modification: now })?)
}

/// The time by the clock of the file server: that of a file made now.
fn now(folder: &Path) -> io::Result<SystemTime> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let probe = folder.join(format!(
        ".now-{}-{}-{number}",
        rustix::system::uname().nodename().to_string_lossy(),
        std::process::id()
    ));
    let time = File::create(&probe).and_then(|file| {
        touch(&file)?;
        file.metadata()?.modified()
    });
    remove_if_there(&probe)?;
    time
}

fn numbers(folder: &Path, name: &str) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let file = entry?.file_name();
        let number: Option<u64> =
            file.to_str().and_then(|file| file.strip_prefix(name)?.strip_prefix('.')?.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    /// Nobody has touched the lease for so long.
    fn rest(folder: &Path, name: &str, age: Duration) {
        let number = *numbers(folder, name).unwrap().last().unwrap();
        let file = File::options().write(true).open(folder.join(format!("{name}.{number}"))).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    #[test]
    fn one_has_it_until_he_gives_it_back_or_rests_for_too_long() {
        let root = tempfile::tempdir().unwrap();
        let take = |owner: &str| Lease::take(root.path(), "m", owner, TTL).unwrap();
        let one = take("one").unwrap();
        assert!(take("two").is_none() && one.renew().unwrap());
        assert!(Lease::take(root.path(), "other", "two", TTL).unwrap().is_some());
        drop(one);
        let two = take("two").unwrap();
        rest(root.path(), "m", Duration::from_secs(59));
        assert!(take("three").is_none());
        assert!(two.renew().unwrap() && take("three").is_none());
        rest(root.path(), "m", Duration::from_secs(61));
        let three = take("three").unwrap();
        assert!(!two.renew().unwrap(), "who was away for too long learns of it");
        drop(two);
        assert!(three.renew().unwrap(), "and does no harm any more");
    }

    #[test]
    fn an_owner_who_comes_back_has_it_at_once() {
        let root = tempfile::tempdir().unwrap();
        let take = |owner: &str| Lease::take(root.path(), "slot", owner, TTL).unwrap();
        drop(take("pod").unwrap().keep());
        assert!(take("other").is_none());
        assert_eq!(holder(root.path(), "slot").unwrap().unwrap().owner, "pod");
        let again = take("pod").unwrap();
        assert_eq!(numbers(root.path(), "slot").unwrap(), [again.number]);
    }

    #[test]
    fn of_many_at_once_one_has_it() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path();
        let take = |owner: u32| Lease::take(folder, "m", &owner.to_string(), TTL).unwrap();
        let taken: Vec<Lease> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|owner| scope.spawn(move || take(owner))).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(taken.len(), 1, "{taken:?}");
        assert!(taken.iter().all(|lease| lease.renew().unwrap()));
    }
}
