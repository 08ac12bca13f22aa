//! Fields of responses become blocks of bytes.
//!
//! Strings are written as they are: the code would save a third of what is short already. What is said again and again is in
//! the table after the first time, and then a byte long.
//! Source: RFC 7541, section 6.

use http::{HeaderName, HeaderValue, header};

use super::{
    DEFAULT_TABLE_SIZE, integer, static_table,
    table::{Table, size_of},
};

/// Size of the table at most: far more than the fields that are kept there.
const MAX_TABLE_SIZE: usize = DEFAULT_TABLE_SIZE;
/// Values longer than this are not kept.
const MAX_VALUE: usize = 64;

/// Writes the header blocks of one connection. Whatever was written has to be sent, in that order, for the client keeps the same table.
#[derive(Debug)]
pub(crate) struct Encoder {
    table: Table<(HeaderName, HeaderValue)>,
    /// What the next block has to say of the size first, and the smallest size that there was meanwhile.
    size_update: Option<SizeUpdate>,
}

#[derive(Debug, Clone, Copy)]
struct SizeUpdate {
    smallest: usize,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self { table: Table::new(DEFAULT_TABLE_SIZE), size_update: None }
    }

    /// Takes the size that the settings of the client permit, `SETTINGS_HEADER_TABLE_SIZE`, as of the next block.
    pub(crate) fn set_max_table_size(&mut self, peers: usize) {
        let size = peers.min(MAX_TABLE_SIZE);
        if size == self.table.max_size() {
            return;
        }
        let smallest = self.size_update.map_or(size, |update| update.smallest.min(size));
        self.size_update = Some(SizeUpdate { smallest });
        self.table.set_max_size(size);
    }

    /// Appends `:status`, the first field of a response.
    pub(crate) fn status(&mut self, status: u16, into: &mut Vec<u8>) {
        self.begin(into);
        let (index, is_whole) = static_table::index_of_status(status);
        if is_whole {
            integer::encode(index, 7, 0x80, into);
        } else {
            integer::encode(index, 4, 0, into);
            string(status.to_string().as_bytes(), into);
        }
    }

    /// Appends a field. One whose value is sensitive is marked so that nobody on the way keeps it.
    pub(crate) fn field(&mut self, name: &HeaderName, value: &HeaderValue, into: &mut Vec<u8>) {
        self.begin(into);
        let (prefix, pattern) = if value.is_sensitive() {
            (4, 0x10)
        } else if has_few_values(name) && value.len() <= MAX_VALUE {
            if let Some(place) = self.table.iter().position(|(one, of_it)| one == name && of_it == value) {
                integer::encode(static_table::LENGTH + 1 + place, 7, 0x80, into);
                return;
            }
            (6, 0x40)
        } else {
            (4, 0)
        };
        let index = static_table::index_of(name).or_else(|| {
            let place = self.table.iter().position(|(one, _)| one == name)?;
            Some(static_table::LENGTH + 1 + place)
        });
        integer::encode(index.unwrap_or(0), prefix, pattern, into);
        if index.is_none() {
            string(name.as_str().as_bytes(), into);
        }
        string(value.as_bytes(), into);
        if pattern == 0x40 {
            self.table.insert((name.clone(), value.clone()), size_of(name.as_str().len(), value.len()));
        }
    }

    /// A block says first what has changed since the last one. Source: RFC 7541, section 4.2.
    fn begin(&mut self, into: &mut Vec<u8>) {
        let Some(SizeUpdate { smallest }) = self.size_update.take() else { return };
        if smallest < self.table.max_size() {
            integer::encode(smallest, 5, 0x20, into);
        }
        integer::encode(self.table.max_size(), 5, 0x20, into);
    }
}

/// Whether the fields of this name say one of a few things, whatever the call.
fn has_few_values(name: &HeaderName) -> bool {
    [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::ACCEPT_ENCODING, header::ALLOW, header::SERVER]
        .contains(name)
        || ["grpc-status", "grpc-encoding", "grpc-accept-encoding"].contains(&name.as_str())
}

fn string(string: &[u8], into: &mut Vec<u8>) {
    integer::encode(string.len(), 7, 0, into);
    into.extend_from_slice(string);
}

#[cfg(test)]
mod tests {
    use fluke_hpack::Decoder;

    use super::*;

    /// Both ends of a connection; the client's is somebody else's.
    struct Ends(Encoder, Decoder<'static>);

    impl Ends {
        fn new() -> Self {
            Self(Encoder::new(), Decoder::new())
        }

        /// Sends a response, one field a line; how many bytes it took.
        #[track_caller]
        fn check(&mut self, response: &str) -> usize {
            let mut block = Vec::new();
            for line in response.lines() {
                let (name, value) = line.split_once(": ").unwrap();
                if name == ":status" {
                    self.0.status(value.parse().unwrap(), &mut block);
                } else {
                    self.0.field(&name.parse().unwrap(), &value.parse().unwrap(), &mut block);
                }
            }
            let text = String::from_utf8;
            let fields = self.1.decode(&block).unwrap().into_iter();
            let said: String =
                fields.map(|(name, value)| format!("{}: {}\n", text(name).unwrap(), text(value).unwrap())).collect();
            assert_eq!(said.trim_end(), response);
            block.len()
        }
    }

    #[test]
    fn what_is_said_again_is_a_byte_long() {
        let mut ends = Ends::new();
        let (head, trailers) = (":status: 200\ncontent-type: application/grpc", "grpc-status: 0");
        assert_eq!((ends.check(head), ends.check(trailers)), (19, 15));
        for _ in 0..10 {
            assert_eq!((ends.check(head), ends.check(trailers)), (2, 1));
        }
    }

    #[test]
    fn what_differs_from_call_to_call_is_not_kept() {
        let mut ends = Ends::new();
        for call in 0..300 {
            ends.check(&format!(
                ":status: 200\ngrpc-status: {}\ngrpc-message: of call {call}\nx-call: {call}",
                call % 17
            ));
        }
        assert_eq!(ends.0.table.iter().count(), 17);
        ends.check(&format!("server: {}", "s".repeat(MAX_VALUE + 1)));
        assert_eq!(ends.0.table.iter().count(), 17);
    }

    #[test]
    fn every_status_is_written() {
        let mut ends = Ends::new();
        for status in 100..=999 {
            ends.check(&format!(":status: {status}"));
        }
    }

    #[test]
    fn the_client_says_how_large_the_table_is() {
        let mut ends = Ends::new();
        for size in [0, 46, 100, 4096, 1 << 30] {
            ends.0.set_max_table_size(size);
            for call in 0..50 {
                ends.check(&format!("grpc-status: {}\ncontent-type: application/grpc\nallow: POST", call % 17));
            }
            assert!(ends.0.table.max_size() == size.min(4096));
        }
        ends.0.set_max_table_size(0);
        ends.0.set_max_table_size(1000);
        ends.0.set_max_table_size(2000);
        let mut block = Vec::new();
        ends.0.status(200, &mut block);
        assert_eq!(block, [0x20, 0x3f, 0xb1, 0x0f, 0x88]);
    }

    #[test]
    fn what_is_sensitive_is_never_indexed() {
        let (mut encoder, mut block) = (Encoder::new(), Vec::new());
        let mut value = HeaderValue::from_static("x");
        value.set_sensitive(true);
        encoder.field(&header::SERVER, &value, &mut block);
        assert_eq!(block, [0x1f, 39, 1, b'x']);
        assert_eq!(encoder.table.iter().count(), 0);
    }
}
