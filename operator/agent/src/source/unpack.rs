//! Archives, opened without trusting them: only plain files and folders come out, only below the folder they are meant
//! for, and only as much as the limits allow. The kind is told by the name, never by the bytes: a PyTorch model is a zip
//! file too.

use std::{
    cell::Cell,
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;

use super::{progress::Progress, tar_stream::TarStream};
use crate::{
    fault::{Fault, Reason},
    verify::{self, Files},
};

/// A kind of archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archive {
    /// `.tar`
    Tar,
    /// `.tar.gz`, `.tgz`
    TarGz,
    /// `.zip`
    Zip,
}

impl Archive {
    /// The kind a file of that name is; `None` for a plain file.
    pub fn of(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let endings = [(".tar", Self::Tar), (".tar.gz", Self::TarGz), (".tgz", Self::TarGz), (".zip", Self::Zip)];
        endings.into_iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, kind)| kind)
    }

    /// Unpacks `archive` into the folder `into`.
    ///
    /// Errors: `InvalidSource` for a broken archive, a path that leads out, a link, a file that comes twice, too much of
    /// it; no longer wanted; `StoreFailed` if the disk would not take it.
    pub fn unpack(self, archive: &Path, into: &Path, progress: &Progress) -> Result<Files, Fault> {
        let unreadable = |error| Fault::store("cannot read the download", &error);
        let file = File::open(archive).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let is_cut = Cell::new(false);
        let mut sink = Sink { into, progress, files: Files::new(), folders: 0, bytes: 0 };
        let reader = BufReader::new(Watched { file, progress });
        let unpacked = match self {
            Self::Tar => untar(reader, &mut sink, &is_cut),
            Self::TarGz => untar(MultiGzDecoder::new(reader), &mut sink, &is_cut),
            Self::Zip => unzip(reader, &mut sink, &is_cut),
        };
        progress.check()?; // why it was ended comes before what it was ended by
        match unpacked {
            Err(_) if is_cut.get() => Err(ends_early(length)),
            unpacked => unpacked.map(|()| sink.files),
        }
    }
}

/// An archive that cannot be read any more once nobody wants it: what is passed over may be long too.
struct Watched<'a> {
    file: File,
    progress: &'a Progress,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.progress.check().map_err(|fault| io::Error::other(fault.message))?;
        self.file.read(buffer)
    }
}

impl Seek for Watched<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// A reader that notes whether what it reads ends before it should.
struct Noting<'a, R> {
    reader: R,
    is_cut: &'a Cell<bool>,
}

impl<R: Read> Read for Noting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).inspect_err(|error| note(error, self.is_cut))
    }
}

fn note(error: &io::Error, is_cut: &Cell<bool>) {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        is_cut.set(true);
    }
}

/// Where entries go once they were found harmless.
struct Sink<'a> {
    into: &'a Path,
    progress: &'a Progress,
    files: Files,
    folders: usize,
    bytes: u64,
}

impl Sink<'_> {
    fn folder(&mut self, path: &str) -> Result<(), Fault> {
        if matches!(path, "" | "." | "./") || is_litter(path) {
            return Ok(());
        }
        self.folders += 1;
        let most = self.progress.limits().files;
        if self.folders > most {
            return Err(invalid(format!("the archive has more than {most} folders")));
        }
        self.progress.check()?;
        let path = self.into.join(verify::clean_path(path).map_err(invalid)?);
        fs::create_dir_all(&path).map_err(|error| Fault::store(format_args!("cannot make {}", path.display()), &error))
    }

    /// `length`: of the content, as the archive says before it comes.
    fn file(&mut self, path: &str, is_executable: bool, length: u64, content: &mut dyn Read) -> Result<(), Fault> {
        if is_litter(path) {
            return Ok(());
        }
        let path = verify::clean_path(path).map_err(invalid)?;
        let limits = *self.progress.limits();
        if self.files.len() >= limits.files {
            return Err(invalid(format!("the archive has more than {} files", limits.files)));
        }
        if self.files.contains_key(&path) || self.into.join(&path).exists() {
            return Err(invalid(format!("the archive holds '{path}' twice")));
        }
        let too_long = || invalid(format!("unpacked, the archive is over the limit of {} bytes", limits.bytes));
        if self.bytes.saturating_add(length) > limits.bytes {
            return Err(too_long());
        }
        self.progress.make_room(length)?;
        let (bytes, progress) = (&mut self.bytes, self.progress);
        let seen = |length| {
            *bytes += length;
            if *bytes > limits.bytes {
                return Err(too_long());
            }
            progress.write(length)
        };
        let hash = verify::write_file(&self.into.join(&path), content, is_executable, Reason::InvalidSource, seen)?;
        self.files.insert(path, hash);
        Ok(())
    }
}

fn untar(reader: impl Read, sink: &mut Sink<'_>, is_cut: &Cell<bool>) -> Result<(), Fault> {
    let mut archive = TarStream::new(reader);
    while let Some(entry) = archive.next().inspect_err(|error| note(error, is_cut)).map_err(broken)? {
        let path = text(&entry.path)?;
        let kind = entry.kind;
        if entry.is_sparse {
            return Err(invalid(format!(
                "the archive holds a sparse file, '{path}': pack it whole (tar without --sparse)"
            )));
        }
        if kind.is_dir() {
            sink.folder(&path)?;
        } else if kind.is_file() || kind.is_contiguous() {
            sink.file(&path, entry.is_executable, entry.length, &mut Noting { reader: &mut archive, is_cut })?;
        } else if kind.is_symlink() || kind.is_hard_link() {
            return Err(invalid(format!(
                "the archive holds a link, '{path}': pack the files themselves (tar --dereference)"
            )));
        } else {
            return Err(invalid(format!("the archive holds '{path}', which is neither a file nor a folder")));
        }
    }
    archive.end().inspect_err(|error| note(error, is_cut)).map_err(broken)
}

fn unzip(mut reader: impl Read + Seek, sink: &mut Sink<'_>, is_cut: &Cell<bool>) -> Result<(), Fault> {
    let mut first = [0; ZIP_BEGINS.len()];
    let begins_well = reader.read_exact(&mut first).is_ok() && first == *ZIP_BEGINS;
    // the list of what is in it stands at the end
    let mut archive = zip::ZipArchive::new(reader).map_err(|error| {
        is_cut.set(begins_well && matches!(error, zip::result::ZipError::InvalidArchive(_)));
        broken(error)
    })?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(broken)?;
        let path = text(entry.name_raw())?;
        if entry.is_symlink() {
            return Err(invalid(format!(
                "the archive holds a link, '{path}': pack the files themselves (zip without --symlinks)"
            )));
        }
        if entry.is_dir() {
            sink.folder(&path)?;
        } else {
            let is_executable = entry.unix_mode().is_some_and(|mode| mode & 0o100 != 0);
            let length = entry.size();
            sink.file(&path, is_executable, length, &mut entry)?;
        }
    }
    Ok(())
}

/// How a zip file begins that has anything in it.
const ZIP_BEGINS: &[u8; 4] = b"PK\x03\x04";

/// What packers on other systems leave behind.
fn is_litter(path: &str) -> bool {
    path.split('/').any(|part| part == "__MACOSX" || part == ".DS_Store" || part.starts_with("._"))
}

fn text(path: &[u8]) -> Result<String, Fault> {
    String::from_utf8(path.to_vec()).map_err(|_| {
        invalid(format!(
            "the archive holds a name that is not UTF-8: '{}'",
            String::from_utf8_lossy(path).escape_debug()
        ))
    })
}

fn invalid(what: String) -> Fault {
    Fault::new(Reason::InvalidSource, what)
}

fn broken(error: impl std::fmt::Display) -> Fault {
    Fault::new(Reason::InvalidSource, format!("the archive cannot be unpacked: {error}"))
}

fn ends_early(length: u64) -> Fault {
    invalid(format!(
        "the archive cannot be unpacked: it ends early, after {length} bytes: it was cut off on its way or when it was made, so put a whole \
         one in its place"
    ))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use super::*;
    use crate::source::progress::Limits;

    /// A tar of raw entries, names as they are, harmless or not.
    pub(crate) fn tar_of(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            if kind.is_symlink() || kind.is_hard_link() {
                header.set_size(0);
                header.as_old_mut().linkname[..content.len()].copy_from_slice(content);
                header.set_cksum();
                builder.append(&header, &b""[..]).unwrap();
            } else {
                header.set_size(content.len() as u64);
                header.set_cksum();
                builder.append(&header, *content).unwrap();
            }
        }
        builder.into_inner().unwrap()
    }

    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn unpack(kind: Archive, bytes: &[u8], limits: Limits) -> (tempfile::TempDir, Result<Files, Fault>) {
        let root = tempfile::tempdir().unwrap();
        let archive = root.path().join("archive");
        fs::write(&archive, bytes).unwrap();
        let into = root.path().join("deep/into");
        fs::create_dir_all(&into).unwrap();
        let unpacked = kind.unpack(&archive, &into, &Progress::new(limits, |_| {}));
        (root, unpacked)
    }

    #[track_caller]
    fn refused(kind: Archive, bytes: &[u8], limits: Limits, saying: &str) {
        let (root, unpacked) = unpack(kind, bytes, limits);
        let fault = unpacked.unwrap_err();
        assert_eq!(fault.reason, Reason::InvalidSource, "{fault}");
        assert!(fault.message.contains(saying), "{fault}");
        let outside: Vec<_> = fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(outside.len(), 2, "{outside:?}"); // the archive and `deep`
        assert!(!root.path().join("deep/evil").exists());
    }

    const FILE: tar::EntryType = tar::EntryType::Regular;

    #[test]
    fn files_and_folders_come_out_and_litter_does_not() {
        let bytes = tar_of(&[
            ("./", tar::EntryType::Directory, b""),
            ("./net/1/model.onnx", FILE, b"weights"),
            ("net/._config.pbtxt", FILE, b"mac"),
            ("net/config.pbtxt", FILE, b""),
        ]);
        for (kind, bytes) in [(Archive::Tar, bytes.clone()), (Archive::TarGz, gzip(&bytes))] {
            let (root, files) = unpack(kind, &bytes, Limits::default());
            assert_eq!(files.unwrap().keys().collect::<Vec<_>>(), ["net/1/model.onnx", "net/config.pbtxt"]);
            assert_eq!(fs::read(root.path().join("deep/into/net/1/model.onnx")).unwrap(), b"weights");
        }
    }

    #[test]
    fn paths_that_lead_out_links_and_devices_are_refused() {
        let limits = Limits::default();
        refused(Archive::Tar, &tar_of(&[("../evil", FILE, b"x")]), limits, "leads out");
        refused(Archive::Tar, &tar_of(&[("a/../../evil", FILE, b"x")]), limits, "leads out");
        refused(Archive::Tar, &tar_of(&[("/tmp/evil", FILE, b"x")]), limits, "absolute");
        refused(Archive::Tar, &tar_of(&[("a", tar::EntryType::Symlink, b"/etc")]), limits, "a link, 'a'");
        refused(Archive::Tar, &tar_of(&[("a", tar::EntryType::Link, b"/etc/passwd")]), limits, "a link, 'a'");
        refused(Archive::Tar, &tar_of(&[("a", tar::EntryType::Char, b"")]), limits, "neither a file");
        refused(Archive::Tar, &tar_of(&[("a", FILE, b"1"), ("./a", FILE, b"2")]), limits, "'a' twice");
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit_and_a_broken_archive_is_called_one() {
        let limits = Limits { bytes: 1 << 20, files: 2, ..Limits::default() };
        refused(Archive::TarGz, &gzip(&tar_of(&[("a", FILE, &vec![0; 4 << 20])])), limits, "limit of 1048576 bytes");
        let mut declared = tar_of(&[("a", FILE, &vec![0; 4 << 20])]);
        declared.truncate(512); // nothing but the header has come
        refused(Archive::Tar, &declared, limits, "limit of 1048576 bytes");
        let three = tar_of(&[("a", FILE, b""), ("b", FILE, b""), ("c", FILE, b"")]);
        refused(Archive::Tar, &three, limits, "more than 2 files");
        let whole = gzip(&tar_of(&[("a", FILE, &vec![7; 70_000])]));
        refused(Archive::TarGz, &whole[..whole.len() / 2], limits, "cannot");
        refused(Archive::Tar, b"<html>not found</html>", limits, "cannot be unpacked");
        refused(Archive::Zip, b"<html>not found</html>", limits, "cannot be unpacked");
    }

    #[test]
    fn an_archive_that_was_cut_off_is_told_as_that_with_the_bytes_that_came() {
        let entries = tar_of(&[("1/model.onnx", FILE, &vec![7; 70_000]), ("config.pbtxt", FILE, b"name: 'x'")]);
        let mut zip = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file("1/model.onnx", stored).unwrap();
        zip.write_all(&vec![7; 70_000]).unwrap();
        let zip = zip.finish().unwrap().into_inner();
        for (kind, whole) in [(Archive::TarGz, gzip(&entries)), (Archive::Tar, entries), (Archive::Zip, zip)] {
            for kept in [whole.len() / 3, whole.len() / 2, whole.len() * 9 / 10] {
                refused(kind, &whole[..kept], Limits::default(), &format!("it ends early, after {kept} bytes"));
            }
        }
        refused(Archive::TarGz, b"<html>not found</html>", Limits::default(), "invalid gzip header");
    }

    #[test]
    fn an_archive_without_its_end_is_not_whole_though_all_that_came_can_be_read() {
        let entries = tar_of(&[("1/model.onnx", FILE, &[7; 1024]), ("config.pbtxt", FILE, b"name: 'x'")]);
        let between = 512 + 1024; // the first entry and its header
        refused(Archive::Tar, &entries[..between], Limits::default(), "it ends early, after 1536 bytes");
        refused(Archive::TarGz, &gzip(&entries[..between]), Limits::default(), "it ends early");
        let packed = gzip(&entries);
        let without_sum = &packed[..packed.len() - 8];
        refused(Archive::TarGz, without_sum, Limits::default(), "it ends early");
    }

    #[test]
    fn an_archive_that_was_damaged_on_its_way_is_found_by_its_checksum() {
        let mut packed = gzip(&tar_of(&[("1/model.onnx", FILE, &[7; 1024])]));
        let sum = packed.len() - 8;
        packed[sum] ^= 1;
        refused(Archive::TarGz, &packed, Limits::default(), "does not have a matching checksum");
    }

    #[test]
    fn what_is_said_of_an_entry_is_bounded_too() {
        let limits = Limits { files: 2, ..Limits::default() };
        let long = |kind| tar_of(&[("././@LongLink", kind, &vec![b'a'; 4 << 20]), ("a", FILE, b"x")]);
        for kind in [tar::EntryType::GNULongName, tar::EntryType::GNULongLink, tar::EntryType::XHeader] {
            refused(Archive::TarGz, &gzip(&long(kind)), limits, "cannot be unpacked");
        }
        let folders = tar_of(&["a", "b", "c"].map(|name| (name, tar::EntryType::Directory, b"".as_slice())));
        refused(Archive::Tar, &folders, limits, "more than 2 folders");
        refused(Archive::Tar, &tar_of(&[("a", tar::EntryType::GNUSparse, b"x")]), limits, "a sparse file, 'a'");
    }

    #[test]
    fn a_zip_is_held_to_the_same_rules() {
        let zipped = |entries: &[(&str, &[u8])]| {
            let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
            for (name, content) in entries {
                writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
                writer.write_all(content).unwrap();
            }
            writer.finish().unwrap().into_inner()
        };
        let good = zipped(&[("1/model.onnx", b"weights"), ("__MACOSX/1/._model.onnx", b"mac")]);
        let (_root, files) = unpack(Archive::Zip, &good, Limits::default());
        assert_eq!(files.unwrap().keys().collect::<Vec<_>>(), ["1/model.onnx"]);
        refused(Archive::Zip, &zipped(&[("../evil", b"x")]), Limits::default(), "leads out");
        refused(
            Archive::Zip,
            &zipped(&[("a", &vec![0; 2000])]),
            Limits { bytes: 1000, ..Limits::default() },
            "limit of 1000",
        );
        let mut link = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        link.add_symlink("a", "/etc/passwd", zip::write::SimpleFileOptions::default()).unwrap();
        refused(Archive::Zip, &link.finish().unwrap().into_inner(), Limits::default(), "a link, 'a'");
    }

    #[test]
    fn what_nobody_wants_any_more_is_not_unpacked_to_its_end() {
        const ALL: usize = 5_000;
        let names: Vec<_> = (0..ALL).map(|number| format!("1/{number}")).collect();
        let entries: Vec<_> = names.iter().map(|name| (name.as_str(), tar::EntryType::file(), &b""[..])).collect();
        let tar = tar_of(&entries);
        let mut zip = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        for name in &names {
            zip.start_file(name.as_str(), zip::write::SimpleFileOptions::default()).unwrap();
        }
        let zip = zip.finish().unwrap().into_inner();
        for (kind, bytes) in [(Archive::TarGz, gzip(&tar)), (Archive::Tar, tar), (Archive::Zip, zip)] {
            let root = tempfile::tempdir().unwrap();
            let (archive, into) = (root.path().join("archive"), root.path().join("into"));
            fs::write(&archive, bytes).unwrap();
            let progress = Progress::new(Limits::default(), |_| {});
            let fault = std::thread::scope(|scope| {
                let unpacking = scope.spawn(|| kind.unpack(&archive, &into, &progress));
                while !into.join("1/9").exists() && !unpacking.is_finished() {
                    std::thread::yield_now();
                }
                progress.cancel();
                unpacking.join().unwrap().unwrap_err()
            });
            assert_eq!(fault.message, "no longer wanted", "{kind:?}");
            let unpacked = fs::read_dir(into.join("1")).unwrap().count();
            assert!((1..ALL).contains(&unpacked), "{kind:?}: {unpacked}");
        }
    }

    #[test]
    fn the_name_tells_the_kind() {
        assert_eq!(Archive::of("net.TAR.GZ"), Some(Archive::TarGz));
        assert_eq!(Archive::of("net.tgz"), Some(Archive::TarGz));
        assert_eq!(Archive::of("net.tar"), Some(Archive::Tar));
        assert_eq!(Archive::of("net.zip"), Some(Archive::Zip));
        assert_eq!(Archive::of("model.pt"), None);
    }
}
