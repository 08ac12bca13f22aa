//! The entries of a tar archive as they come, from a reader that cannot go back. Every length that is kept in memory has a bound:
//! the archive is somebody else's.
//!
//! Source: POSIX.1-2001 (ustar and pax) and the long names of GNU tar.

use std::io::{self, Read};

use tar::{EntryType, Header};

/// Length of a header, and what contents are filled up to.
const BLOCK: usize = 512;
/// Longest name of a file.
const NAME_MAX: u64 = 16 << 10;
/// Longest list of extended attributes of a file.
const ATTRIBUTES_MAX: u64 = 1 << 20;
/// Longest rest behind the end of an archive, which is filled up to whole records.
const REST_MAX: u64 = 16 << 20;

/// A tar archive that is read; itself a reader of the present entry's content.
pub(super) struct TarStream<R> {
    reader: R,
    /// Bytes of the present entry that are still to come, and what fills them up.
    left: u64,
    padding: u64,
    /// An empty block said that this is the end.
    has_ended: bool,
}

/// One entry. Its content comes from the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TarEntry {
    /// Path as it is written there.
    pub(super) path: Vec<u8>,
    /// What a link leads to.
    pub(super) link: Vec<u8>,
    /// What it is.
    pub(super) kind: EntryType,
    /// Length of the content in bytes.
    pub(super) length: u64,
    /// Its owner may execute it.
    pub(super) is_executable: bool,
    /// Its content is written in pieces, with holes between them.
    pub(super) is_sparse: bool,
}

/// What was said before an entry about it.
#[derive(Default)]
struct Before {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    length: Option<u64>,
    is_sparse: bool,
}

impl<R: Read> TarStream<R> {
    /// The archive that comes from `reader`.
    pub(super) fn new(reader: R) -> Self {
        Self { reader, left: 0, padding: 0, has_ended: false }
    }

    /// The next entry; `None` at the end. What is left of the last one is passed over.
    ///
    /// Errors: it is no tar archive; it is cut off; a name is too long; the reader fails.
    pub(super) fn next(&mut self) -> io::Result<Option<TarEntry>> {
        let mut before = Before::default();
        loop {
            self.pass_over()?;
            let Some(block) = self.block()? else { return Ok(None) };
            let header = Header::from_byte_slice(&block);
            check(header, &block)?;
            let kind = header.entry_type();
            let written = header.entry_size()?;
            match kind {
                EntryType::GNULongName => before.path = Some(self.text(written)?),
                EntryType::GNULongLink => before.link = Some(self.text(written)?),
                EntryType::XHeader => self.attributes(written, &mut before)?,
                EntryType::XGlobalHeader => self.begin(written), // nothing in it is about one entry
                _ => {
                    let length = before.length.unwrap_or(written);
                    self.begin(length);
                    return Ok(Some(TarEntry {
                        path: before.path.unwrap_or_else(|| header.path_bytes().into_owned()),
                        link: before.link.or_else(|| Some(header.link_name_bytes()?.into_owned())).unwrap_or_default(),
                        kind,
                        length,
                        is_executable: header.mode().is_ok_and(|mode| mode & 0o100 != 0),
                        is_sparse: before.is_sparse || kind.is_gnu_sparse(),
                    }));
                }
            }
        }
    }

    /// To be called after the last entry: the archive is whole. Reads on to the end of the reader, which may have a checksum there.
    ///
    /// Errors: no empty block says that the archive ends; more follows than fills it up; the reader fails.
    pub(super) fn end(mut self) -> io::Result<()> {
        if !self.has_ended {
            return Err(cut_off());
        }
        let rest = io::copy(&mut (&mut self.reader).take(REST_MAX), &mut io::sink())?;
        if rest == REST_MAX {
            return Err(invalid(format!("more than {REST_MAX} bytes follow its end")));
        }
        Ok(())
    }

    /// The reader, wherever it is.
    #[cfg(test)]
    fn into_inner(self) -> R {
        self.reader
    }

    fn begin(&mut self, length: u64) {
        self.left = length;
        self.padding = length.wrapping_neg() % BLOCK as u64;
    }

    fn pass_over(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink())?;
        let padding = std::mem::take(&mut self.padding);
        // an archive may end without what fills up its last entry
        io::copy(&mut (&mut self.reader).take(padding), &mut io::sink()).map(|_| ())
    }

    /// The next header; `None` where the archive ends, which empty blocks say, or nothing at all.
    fn block(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.reader.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(cut_off()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.has_ended = block.iter().all(|byte| *byte == 0);
        Ok((!self.has_ended).then_some(block))
    }

    /// A long name, which is the content of an entry of its own.
    fn text(&mut self, length: u64) -> io::Result<Vec<u8>> {
        let mut text = self.content(length, NAME_MAX)?;
        if let Some(end) = text.iter().position(|byte| *byte == 0) {
            text.truncate(end);
        }
        Ok(text)
    }

    fn content(&mut self, length: u64, most: u64) -> io::Result<Vec<u8>> {
        if length > most {
            return Err(invalid(format!("a name or its attributes have {length} bytes, the most is {most}")));
        }
        self.begin(length);
        let mut content = Vec::new();
        self.read_to_end(&mut content)?;
        Ok(content)
    }

    /// Extended attributes: lines of `LENGTH KEY=VALUE`.
    fn attributes(&mut self, length: u64, before: &mut Before) -> io::Result<()> {
        let content = self.content(length, ATTRIBUTES_MAX)?;
        let wrong = || invalid("its extended attributes cannot be read".to_owned());
        let mut rest = content.as_slice();
        while !rest.is_empty() && rest[0] != 0 {
            let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
            let length: usize = number(&rest[..space]).ok_or_else(wrong)?;
            let line = rest.get(space + 1..length).and_then(|line| line.strip_suffix(b"\n")).ok_or_else(wrong)?;
            rest = &rest[length..];
            let equals = line.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
            let (key, value) = (&line[..equals], &line[equals + 1..]);
            match key {
                b"path" | b"linkpath" if value.len() as u64 > NAME_MAX => {
                    return Err(invalid(format!("a name has {} bytes, the most is {NAME_MAX}", value.len())));
                }
                b"path" => before.path = Some(value.to_owned()),
                b"linkpath" => before.link = Some(value.to_owned()),
                b"size" => before.length = Some(number(value).ok_or_else(wrong)?),
                _ => before.is_sparse |= key.starts_with(b"GNU.sparse."),
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for TarStream<R> {
    /// Reads the content of the present entry. Errors: the archive ends before it does.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        match self.reader.read(&mut buffer[..most])? {
            0 => Err(cut_off()),
            read => {
                self.left -= read as u64;
                Ok(read)
            }
        }
    }
}

fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The sum of a header's bytes is in it.
fn check(header: &Header, block: &[u8; BLOCK]) -> io::Result<()> {
    let sum: u32 = block[..148].iter().chain(&block[156..]).map(|byte| u32::from(*byte)).sum();
    match header.cksum() {
        Ok(written) if written == sum + 8 * u32::from(b' ') => Ok(()),
        _ => Err(invalid("it is no tar archive, or it is damaged".to_owned())),
    }
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut off")
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> io::Result<Vec<(String, String, Vec<u8>)>> {
        let mut stream = TarStream::new(bytes);
        let mut found = Vec::new();
        while let Some(entry) = stream.next()? {
            let mut content = Vec::new();
            stream.read_to_end(&mut content)?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            found.push((text(&entry.path), text(&entry.link), content));
        }
        Ok(found)
    }

    fn append(builder: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, content).unwrap();
    }

    fn pax(record: &str) -> Vec<u8> {
        // the length counts its own digits
        let mut length = record.len() + 3;
        while format!("{length} {record}\n").len() != length {
            length += 1;
        }
        format!("{length} {record}\n").into_bytes()
    }

    fn raw(kind: EntryType, name: &str, content: &[u8]) -> Vec<u8> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_path(name).unwrap();
        header.set_cksum();
        let mut bytes = [header.as_bytes().as_slice(), content].concat();
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    #[test]
    fn what_the_tar_crate_writes_is_read_back_long_names_too() {
        let long = format!("{}/model.onnx", "d".repeat(150));
        let mut builder = tar::Builder::new(Vec::new());
        append(&mut builder, "a", b"");
        append(&mut builder, &long, &[7; 1000]);
        append(&mut builder, "b", &[8; BLOCK]);
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "l", &long).unwrap();
        let bytes = builder.into_inner().unwrap();
        let expect = [("a", "", vec![]), (&*long, "", vec![7; 1000]), ("b", "", vec![8; BLOCK]), ("l", &*long, vec![])];
        let expect = expect.map(|(path, link, content)| (path.to_owned(), link.to_owned(), content));
        assert_eq!(all(&bytes).unwrap(), expect);
    }

    #[test]
    fn extended_attributes_say_names_and_lengths() {
        let records = [pax("path=näme"), pax("mtime=1.5"), pax("size=3")].concat();
        let mut file = raw(EntryType::Regular, "short", b"abc");
        // a length that the header has no room for is only in the attributes
        let mut header = Header::from_byte_slice(&file[..BLOCK]).clone();
        header.set_size(0);
        header.set_cksum();
        file[..BLOCK].copy_from_slice(header.as_bytes());
        let global = raw(EntryType::XGlobalHeader, "g", &pax("comment=x"));
        let bytes = [global, raw(EntryType::XHeader, "x", &records), file, vec![0; 1024]].concat();
        assert_eq!(all(&bytes).unwrap(), [("näme".to_owned(), String::new(), b"abc".to_vec())]);
        let sparse =
            [raw(EntryType::XHeader, "x", &pax("GNU.sparse.major=1")), raw(EntryType::Regular, "f", b"")].concat();
        let entry = TarStream::new(sparse.as_slice()).next().unwrap().unwrap();
        assert!(entry.is_sparse && entry.is_executable && entry.kind.is_file());
    }

    #[test]
    fn an_archive_ends_with_empty_blocks_or_with_nothing() {
        let file = raw(EntryType::Regular, "a", b"x");
        assert_eq!(all(&file).unwrap().len(), 1);
        assert_eq!(all(&[file.clone(), vec![0; BLOCK], b"what comes behind".to_vec()].concat()).unwrap().len(), 1);
        assert_eq!(all(&file[..=BLOCK]).unwrap().len(), 1, "without what fills it up");
        assert!(all(b"").unwrap().is_empty() && TarStream::new(&b""[..]).into_inner().is_empty());
    }

    #[test]
    fn what_is_damaged_cut_off_or_too_long_is_an_error() {
        let file = raw(EntryType::Regular, "a", &[1; 700]);
        let mut damaged = file.clone();
        damaged[3] ^= 1;
        let long = raw(EntryType::GNULongName, "l", &vec![b'a'; 20 << 10]);
        let attributes = raw(EntryType::XHeader, "x", &vec![b'1'; 2 << 20]);
        let long_in_attributes = raw(EntryType::XHeader, "x", &pax(&format!("path={}", "a".repeat(17 << 10))));
        for (bytes, saying) in [
            (damaged, "no tar archive"),
            (b"<html>not found</html>".to_vec(), "cut off"),
            (vec![b'x'; 2000], "no tar archive"),
            (file[..600].to_vec(), "cut off"),
            (file[..100].to_vec(), "cut off"),
            (long, "the most is 16384"),
            (attributes, "the most is 1048576"),
            (long_in_attributes, "the most is 16384"),
            (raw(EntryType::XHeader, "x", b"junk"), "cannot be read"),
            (raw(EntryType::XHeader, "x", b"99 path=a\n"), "cannot be read"),
            (raw(EntryType::XHeader, "x", b"2 path=a\n"), "cannot be read"),
            (raw(EntryType::XHeader, "x", b"10 size=-1\n"), "cannot be read"),
        ] {
            let error = all(&bytes).unwrap_err().to_string();
            assert!(error.contains(saying), "{error}");
        }
    }

    #[test]
    fn no_damage_whatever_is_more_than_an_error() {
        let records = [pax("path=long"), pax("size=3")].concat();
        let file = raw(EntryType::Regular, "a", b"abc");
        let whole = [raw(EntryType::XHeader, "x", &records), raw(EntryType::GNULongLink, "l", b"link"), file].concat();
        for length in 0..whole.len() {
            let _ = all(&whole[..length]);
        }
        let reseal = |bytes: &mut [u8]| {
            for start in (0..bytes.len()).step_by(2 * BLOCK) {
                let mut header = Header::from_byte_slice(&bytes[start..start + BLOCK]).clone();
                header.set_cksum();
                bytes[start..start + BLOCK].copy_from_slice(header.as_bytes());
            }
        };
        for at in 0..whole.len() {
            for value in [0, b'0', b'9', b' ', 0x7f, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let _ = all(&bytes);
                reseal(&mut bytes); // what is wrong with the sum alone is found early
                let _ = all(&bytes);
            }
        }
    }
}
