//! Layers on disk: what is in one, and the files that are wanted of it. Compression is told by the first bytes: not every tool
//! says it right.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;

use super::tree::{Bounds, Entry, Kind};
use crate::{
    fault::{Fault, Reason},
    source::{progress::Progress, tar_stream::TarStream},
    verify::{self, Files},
};

/// What is in a layer, in the order of the archive.
///
/// Errors: `InvalidSource` for what is no archive, or too much; `StoreFailed` if the disk cannot be read.
pub(super) fn list(layer: &Path, bounds: &Bounds, progress: &Progress) -> Result<Vec<Entry>, Fault> {
    let mut stream = open(layer, progress)?;
    let (mut entries, mut names) = (Vec::new(), 0);
    while let Some(entry) = stream.next().map_err(|error| broken(&error))? {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let kind = match entry.kind {
            kind if kind.is_dir() => Kind::Folder,
            kind if (kind.is_file() || kind.is_contiguous()) && !entry.is_sparse => Kind::File,
            kind if kind.is_symlink() => Kind::SymbolicLink(text(&entry.link)),
            kind if kind.is_hard_link() => Kind::HardLink(text(&entry.link)),
            _ => Kind::Other,
        };
        names += entry.path.len() + entry.link.len();
        if entries.len() >= bounds.entries || names > bounds.names {
            let message =
                format!("a layer has more than {} files, or more than {} bytes of names", bounds.entries, bounds.names);
            return Err(Fault::new(Reason::InvalidSource, message));
        }
        entries.push(Entry { path: text(&entry.path), kind });
    }
    Ok(entries)
}

/// Brings files of a layer into the folder `into`: by the number of the entry, the paths they get. `unpacked` counts the bytes
/// written so far, of all layers.
///
/// Errors: the same, and `StoreFailed` if the disk would not take them.
pub(super) fn unpack(
    layer: &Path,
    wanted: &BTreeMap<usize, Vec<String>>,
    into: &Path,
    unpacked: &mut u64,
    progress: &Progress,
) -> Result<Files, Fault> {
    let mut files = Files::new();
    let Some(last) = wanted.keys().last().copied() else { return Ok(files) };
    let mut stream = open(layer, progress)?;
    for number in 0..=last {
        let Some(entry) = stream.next().map_err(|error| broken(&error))? else { break };
        let Some((first, others)) = wanted.get(&number).and_then(|paths| paths.split_first()) else { continue };
        let limit = progress.limits().bytes;
        let seen = |bytes| {
            *unpacked += bytes;
            if *unpacked > limit {
                let message = format!("unpacked, its layers are over the limit of {limit} bytes");
                return Err(Fault::new(Reason::InvalidSource, message));
            }
            progress.write(bytes)
        };
        let place = into.join(first);
        let hash = verify::write_file(&place, &mut stream, entry.is_executable, Reason::InvalidSource, seen)?;
        files.insert(first.clone(), hash);
        for other in others {
            same(&place, &into.join(other))
                .map_err(|error| Fault::store(format_args!("cannot write {other}"), &error))?;
            files.insert(other.clone(), hash);
        }
    }
    let missing = wanted.len() - wanted.values().filter(|paths| files.contains_key(&paths[0])).count();
    match missing {
        0 => Ok(files),
        _ => Err(Fault::new(Reason::StoreFailed, format!("{} has changed while it was read", layer.display()))),
    }
}

/// Another name for a file, or a copy where there can be no other names.
fn same(file: &Path, other: &Path) -> io::Result<()> {
    if let Some(folder) = other.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::hard_link(file, other).or_else(|_| fs::copy(file, other).map(|_| ()))
}

fn open<'a>(layer: &Path, progress: &'a Progress) -> Result<TarStream<Counted<'a>>, Fault> {
    let fail = |error: io::Error| Fault::store(format_args!("cannot read {}", layer.display()), &error);
    let mut reader = BufReader::with_capacity(256 << 10, File::open(layer).map_err(fail)?);
    let inner: Box<dyn Read> = match reader.fill_buf().map_err(fail)? {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(reader)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Box::new(Zstd::new(reader)),
        _ => Box::new(reader),
    };
    Ok(TarStream::new(Counted { inner, bytes: 0, progress }))
}

fn broken(error: &io::Error) -> Fault {
    Fault::new(Reason::InvalidSource, format!("a layer cannot be unpacked: {error}"))
}

/// Holds what comes out of a layer to the limit of bytes, and ends when nobody wants it any more.
struct Counted<'a> {
    inner: Box<dyn Read>,
    bytes: u64,
    progress: &'a Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.progress.check().map_err(|fault| io::Error::other(fault.message))?;
        let read = self.inner.read(buffer)?;
        self.bytes += read as u64;
        let limit = self.progress.limits().bytes;
        if self.bytes > limit {
            return Err(io::Error::other(format!("it is over the limit of {limit} bytes")));
        }
        Ok(read)
    }
}

/// Zstandard: one frame after the other, those that hold something else passed over.
struct Zstd<R: BufRead> {
    state: State<R>,
}

enum State<R: BufRead> {
    Between(R),
    Within(Box<ruzstd::decoding::StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>),
    Broken,
}

impl<R: BufRead> Zstd<R> {
    fn new(reader: R) -> Self {
        Self { state: State::Between(reader) }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match std::mem::replace(&mut self.state, State::Broken) {
                State::Broken => return Err(io::Error::other("the archive is damaged")),
                State::Between(mut reader) => match reader.fill_buf()? {
                    [] => {
                        self.state = State::Between(reader);
                        return Ok(0);
                    }
                    [first, ..] if (0x50..=0x5f).contains(first) => {
                        let mut header = [0; 8];
                        reader.read_exact(&mut header)?;
                        let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
                        io::copy(&mut (&mut reader).take(length.into()), &mut io::sink())?;
                        self.state = State::Between(reader);
                    }
                    _ => {
                        let decoder = ruzstd::decoding::StreamingDecoder::new(reader).map_err(io::Error::other)?;
                        self.state = State::Within(Box::new(decoder));
                    }
                },
                State::Within(mut decoder) => {
                    let read = decoder.read(buffer)?;
                    if read > 0 {
                        self.state = State::Within(decoder);
                        return Ok(read);
                    }
                    self.state = State::Between(decoder.into_inner());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tar::EntryType;

    use super::*;
    use crate::source::{
        progress::Limits,
        unpack::tests::{gzip, tar_of},
    };

    const FILE: EntryType = EntryType::Regular;

    fn layer(bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("layer");
        fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    fn unwatched(limits: Limits) -> std::sync::Arc<Progress> {
        Progress::new(limits, |_| {})
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn a_layer_is_listed_and_unpacked_however_it_is_compressed() {
        let tar = tar_of(&[
            ("models/", EntryType::Directory, b""),
            ("models/a", FILE, &[7; 300_000]),
            ("models/b", EntryType::Symlink, b"a"),
            ("models/c", EntryType::Link, b"models/a"),
            ("dev", EntryType::Char, b""),
            ("models/d", FILE, b"d"),
        ]);
        let (head, tail) = tar.split_at(1000);
        let frames = [b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec(), zstd(head), zstd(tail)].concat();
        for bytes in [tar.clone(), gzip(&tar), zstd(&tar), frames] {
            let (folder, path) = layer(&bytes);
            let progress = unwatched(Limits::default());
            let entries = list(&path, &Bounds::default(), &progress).unwrap();
            let kinds: Vec<_> = entries.iter().map(|entry| (entry.path.as_str(), entry.kind.clone())).collect();
            assert_eq!(
                kinds,
                [
                    ("models/", Kind::Folder),
                    ("models/a", Kind::File),
                    ("models/b", Kind::SymbolicLink("a".into())),
                    ("models/c", Kind::HardLink("models/a".into())),
                    ("dev", Kind::Other),
                    ("models/d", Kind::File),
                ]
            );
            let wanted = BTreeMap::from([(1, vec!["a".to_owned(), "deep/b".to_owned()]), (5, vec!["d".to_owned()])]);
            let into = folder.path().join("into");
            let files = unpack(&path, &wanted, &into, &mut 0, &progress).unwrap();
            assert_eq!(files.keys().collect::<Vec<_>>(), ["a", "d", "deep/b"]);
            assert!(
                fs::read(into.join("deep/b")).unwrap() == [7; 300_000] && fs::read(into.join("d")).unwrap() == b"d"
            );
        }
    }

    #[test]
    fn what_is_broken_or_too_much_is_refused() {
        let zeros = tar_of(&[("a", FILE, &vec![0; 4 << 20])]);
        let small = Limits { bytes: 1 << 20, ..Limits::default() };
        for bytes in [zeros.clone(), gzip(&zeros), zstd(&zeros)] {
            let (_folder, path) = layer(&bytes);
            let fault = list(&path, &Bounds::default(), &unwatched(small)).unwrap_err();
            assert!(fault.reason == Reason::InvalidSource && fault.message.contains("limit of 1048576"), "{fault}");
        }
        let whole = gzip(&zeros);
        let compressed = zstd(&zeros);
        for bytes in
            [&whole[..whole.len() / 2], &compressed[..compressed.len() / 2], b"<html></html>", b"\x28\xb5\x2f\xfdx"]
        {
            let (_folder, path) = layer(bytes);
            let fault = list(&path, &Bounds::default(), &unwatched(Limits::default())).unwrap_err();
            assert!(fault.reason == Reason::InvalidSource && fault.message.contains("cannot be unpacked"), "{fault}");
        }
        let (_folder, path) = layer(&tar_of(&[("a", FILE, b""), ("b", FILE, b"")]));
        let bounds = Bounds { entries: 1, ..Bounds::default() };
        assert!(list(&path, &bounds, &unwatched(Limits::default())).unwrap_err().message.contains("more than 1 files"));
    }

    #[test]
    fn the_limit_of_bytes_is_that_of_all_layers() {
        let (folder, path) = layer(&tar_of(&[("a", FILE, &[1; 600])]));
        let limits = Limits { bytes: 4096, ..Limits::default() };
        let wanted = BTreeMap::from([(0, vec!["a".to_owned()])]);
        let mut unpacked = 4000;
        let fault = unpack(&path, &wanted, &folder.path().join("into"), &mut unpacked, &unwatched(limits)).unwrap_err();
        assert!(fault.message.contains("limit of 4096 bytes"), "{fault}");
    }

    #[test]
    fn no_damage_to_a_compressed_layer_is_more_than_a_fault() {
        let noise: Vec<u8> = (0..2000u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        let tar = tar_of(&[("models/a", FILE, &[7; 3000]), ("models/b", FILE, &noise)]);
        for whole in [gzip(&tar), zstd(&tar)] {
            let (_folder, path) = layer(&[]);
            let mut damaged = 0;
            for at in 0..whole.len() {
                let mut bytes = whole.clone();
                bytes[at] = bytes[at].wrapping_add(1 + (at % 254) as u8);
                fs::write(&path, &bytes).unwrap();
                damaged += usize::from(list(&path, &Bounds::default(), &unwatched(Limits::default())).is_err());
            }
            assert!(damaged > 0, "nothing was found");
        }
    }
}
