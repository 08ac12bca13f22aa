//! Blocks of bytes become fields.
//! Source: RFC 7541, sections 3 and 6.

use super::{
    CompressionError, Field, HpackError,
    entry::{Entry, Name},
    huffman, integer, static_table,
    table::{Table, size_of},
};

/// Reads the header blocks of one connection, all of them, in the order in which they come.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: Table<Entry>,
    /// The size that the table may be given.
    max_table_size: usize,
    /// The string that was decompressed last.
    string: Vec<u8>,
}

impl Decoder {
    /// `max_table_size` is that of the settings of this side, bytes. The table has that size until the client makes it smaller, so it is
    /// [`DEFAULT_TABLE_SIZE`](super::DEFAULT_TABLE_SIZE) where the settings say nothing.
    pub(crate) fn new(max_table_size: usize) -> Self {
        Self { table: Table::new(max_table_size), max_table_size, string: Vec::new() }
    }

    /// Reads one whole block, and passes its fields to `take` in their order.
    ///
    /// `max_list_size` bounds the sum of their sizes as `SETTINGS_MAX_HEADER_LIST_SIZE` counts them: names and values in bytes, and 32 for each.
    /// Errors: what stands at [`HpackError`]; where the block can be read, the first thing that is wrong with its fields. Some fields were
    /// taken then.
    pub(crate) fn decode(
        &mut self,
        block: &[u8],
        max_list_size: usize,
        mut take: impl FnMut(Field),
    ) -> Result<(), HpackError> {
        let mut rest = block;
        while rest.first().is_some_and(|first| first & 0xe0 == 0x20) {
            let size = integer::decode(&mut rest, 5)?;
            if size > self.max_table_size {
                return Err(CompressionError::TableSize.into());
            }
            self.table.set_max_size(size);
        }
        let mut left = max_list_size;
        let mut found = Ok(());
        while let Some(first) = rest.first() {
            let entry = match first {
                0x80.. => {
                    let index = integer::decode(&mut rest, 7)?;
                    let entry = self.entry(index)?;
                    if found.is_err() {
                        continue;
                    }
                    entry.clone()
                }
                0x40.. => {
                    let (entry, size) = self.literal(&mut rest, 6, false)?;
                    self.table.insert(entry.clone(), size);
                    entry
                }
                0x20.. => return Err(CompressionError::TableSize.into()),
                0x10.. => self.literal(&mut rest, 4, true)?.0,
                _ => self.literal(&mut rest, 4, false)?.0,
            };
            if found.is_err() {
                continue; // only the table is still of interest
            }
            found = match entry {
                Entry::Malformed(_) => Err(HpackError::Malformed),
                Entry::Field(field) => match left.checked_sub(field.size()) {
                    None => Err(HpackError::TooLarge),
                    Some(rest) => {
                        left = rest;
                        take(field);
                        Ok(())
                    }
                },
            };
        }
        found
    }

    fn entry(&self, index: usize) -> Result<&Entry, CompressionError> {
        let entry = static_table::get(index).or_else(|| self.table.get(index.checked_sub(static_table::LENGTH + 1)?));
        entry.ok_or(CompressionError::Index)
    }

    /// A field that is written out, its name perhaps as an index of so many bits and more; and its size.
    fn literal(
        &mut self,
        rest: &mut &[u8],
        prefix: u32,
        is_sensitive: bool,
    ) -> Result<(Entry, usize), CompressionError> {
        let name = match integer::decode(rest, prefix)? {
            0 => Name::parse(string(rest, &mut self.string)?),
            index => self.entry(index)?.name(),
        };
        let value = string(rest, &mut self.string)?;
        let size = size_of(name.len(), value.len());
        Ok((name.with(value, is_sensitive), size))
    }
}

/// Takes a string off the start of the bytes. One that is compressed is written to `decompressed`.
fn string<'a, 'block: 'a>(
    rest: &mut &'block [u8],
    decompressed: &'a mut Vec<u8>,
) -> Result<&'a [u8], CompressionError> {
    let is_compressed = rest.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer::decode(rest, 7)?;
    let (string, behind) = rest.split_at_checked(length).ok_or(CompressionError::Truncated)?;
    *rest = behind;
    if !is_compressed {
        return Ok(string);
    }
    decompressed.clear();
    huffman::decode(string, decompressed)?;
    Ok(decompressed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's side of a connection, in blocks of hexadecimal digits.
    struct Blocks(Decoder);

    impl Blocks {
        /// Checks the fields of a block, one a line, or what is wrong with it; and the table afterwards.
        #[track_caller]
        fn check(&mut self, block: &str, expect: &str, table: &str) {
            let mut said = String::new();
            let found = self.0.decode(&bytes(block), 1000, |field| said += &(text(&Entry::Field(field)) + "\n"));
            match found {
                Ok(()) => assert_eq!(said, expect.to_owned()),
                Err(error) => assert_eq!(error.to_string(), expect),
            }
            let entries: String = self.0.table.iter().map(|entry| text(entry) + "\n").collect();
            assert_eq!(entries, table);
        }
    }

    fn blocks(max_table_size: usize) -> Blocks {
        Blocks(Decoder::new(max_table_size))
    }

    fn bytes(digits: &str) -> Vec<u8> {
        let digits: Vec<u8> = digits.chars().filter_map(|one| one.to_digit(16)).map(|one| one as u8).collect();
        digits.chunks(2).map(|two| two[0] << 4 | two[1]).collect()
    }

    fn text(entry: &Entry) -> String {
        let lossy = String::from_utf8_lossy;
        match entry {
            Entry::Field(Field::Method(value)) => format!(":method: {}", lossy(value)),
            Entry::Field(Field::Scheme(value)) => format!(":scheme: {}", lossy(value)),
            Entry::Field(Field::Authority(value)) => format!(":authority: {}", lossy(value)),
            Entry::Field(Field::Path(value)) => format!(":path: {}", lossy(value)),
            Entry::Field(Field::Header(name, value)) => format!("{name}: {}", lossy(value.as_bytes())),
            Entry::Malformed(Name::Header(name)) => format!("{name}: (malformed)"),
            Entry::Malformed(name) => format!("(malformed, {} bytes)", name.len()),
        }
    }

    // === the examples of the specification, appendix C ===

    #[test]
    fn single_fields() {
        let custom = "custom-key: custom-header\n";
        blocks(4096).check("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", custom, custom);
        blocks(4096).check("040c 2f73 616d 706c 652f 7061 7468", ":path: /sample/path\n", "");
        blocks(4096).check("1008 7061 7373 776f 7264 0673 6563 7265 74", "password: secret\n", "");
        blocks(4096).check("82", ":method: GET\n", "");
    }

    const REQUESTS: [(&str, &str); 3] = [
        (":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\n", ":authority: www.example.com\n"),
        (
            ":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\ncache-control: no-cache\n",
            "cache-control: no-cache\n:authority: www.example.com\n",
        ),
        (
            ":method: GET\n:scheme: https\n:path: /index.html\n:authority: www.example.com\ncustom-key: custom-value\n",
            "custom-key: custom-value\ncache-control: no-cache\n:authority: www.example.com\n",
        ),
    ];

    #[track_caller]
    fn check_requests(coded: [&str; 3]) {
        let mut blocks = blocks(4096);
        for (block, (fields, table)) in coded.into_iter().zip(REQUESTS) {
            blocks.check(block, fields, table);
        }
    }

    #[test]
    fn requests() {
        check_requests([
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ]);
    }

    #[test]
    fn compressed_requests() {
        check_requests([
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ]);
    }

    /// Responses in a small table: no request has a status, but what is removed for whom is the same.
    #[track_caller]
    fn check_responses(coded: [&str; 3]) {
        let first = "location: https://www.example.com\ndate: Mon, 21 Oct 2013 20:13:21 GMT\ncache-control: private\n(malformed, 7 bytes)\n";
        let second = "(malformed, 7 bytes)\nlocation: https://www.example.com\ndate: Mon, 21 Oct 2013 20:13:21 GMT\ncache-control: private\n";
        let third = "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1\ncontent-encoding: gzip\ndate: Mon, 21 Oct 2013 20:13:22 GMT\n";
        let mut blocks = blocks(256);
        for (block, table) in coded.into_iter().zip([first, second, third]) {
            blocks.check(block, "header block has a malformed field", table);
        }
    }

    #[test]
    fn responses() {
        check_responses([
            "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768
             7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "4803 3330 37c1 c0bf",
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153
             444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
        ]);
    }

    #[test]
    fn compressed_responses() {
        check_responses([
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8
             e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b
             3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        ]);
    }

    // === what is wrong ===

    #[test]
    fn what_cannot_be_read() {
        for (block, why) in [
            ("80", "no entry has that index"),
            ("be", "no entry has that index"),
            ("ff 80 80 80 80 10", "a number is too large"),
            ("ff", "it ends within a field"),
            ("40", "it ends within a field"),
            ("00 03 61 62", "it ends within a field"),
            ("00 01 61", "it ends within a field"),
            ("00 7f ff ff ff ff 0f 61", "a number is too large"),
            ("00 7f ff ff ff 7f 61", "it ends within a field"),
            ("7e 01 61", "no entry has that index"),
            ("00 81 00 01 61", "a string is not in the Huffman code"),
            ("00 01 61 82 1f ff", "a string is not in the Huffman code"),
            ("3f e2 1f", "the size of the table is changed against the rules"),
            ("82 20", "the size of the table is changed against the rules"),
        ] {
            blocks(4096).check(block, &format!("header block cannot be read: {why}"), "");
        }
    }

    #[test]
    fn what_is_malformed_is_read_to_its_end_and_kept() {
        let (mut blocks, malformed) = (blocks(4096), "header block has a malformed field");
        // an upper-case name, and then a good field
        blocks.check("40 01 41 01 61  40 01 62 01 63", malformed, "b: c\n(malformed, 1 bytes)\n");
        blocks.check("bf", malformed, "b: c\n(malformed, 1 bytes)\n");
        blocks.check("be", "b: c\n", "b: c\n(malformed, 1 bytes)\n");
        // a line feed; the name may be used with another value
        blocks.check("40 01 63 01 0a", malformed, "c: (malformed)\nb: c\n(malformed, 1 bytes)\n");
        blocks.check("0f 2f 01 64", "c: d\n", "c: (malformed)\nb: c\n(malformed, 1 bytes)\n");
        blocks.check("0f 31 01 64", malformed, "c: (malformed)\nb: c\n(malformed, 1 bytes)\n");
        // no name, a status, a pseudo-header field that nobody knows, a space and a colon in a name
        for block in ["00 00 01 61", "88", "00 03 3a 61 62 01 61", "00 01 20 01 61", "00 02 61 3a 01 61"] {
            blocks.check(block, malformed, "c: (malformed)\nb: c\n(malformed, 1 bytes)\n");
        }
    }

    #[test]
    fn a_list_that_is_too_large_is_read_to_its_end_and_kept() {
        let mut blocks = blocks(4096);
        let large = format!("00 01 61 7f e5 06 {}", "62".repeat(996)); // 33 bytes more than its value
        blocks.check(&format!("{large} 40 01 62 01 63"), "header list is too large", "b: c\n");
        blocks.check(&"be".repeat(29), &"b: c\n".repeat(29), "b: c\n");
        blocks.check(&"be".repeat(30), "header list is too large", "b: c\n");
        // what cannot be read is worse
        let error = "header block cannot be read: it ends within a field";
        blocks.check(&format!("{large} 40"), error, "b: c\n");
    }

    #[test]
    fn the_table_has_the_size_that_the_client_gives_it() {
        let mut blocks = blocks(4096);
        blocks.check("40 01 61 01 62  40 01 63 01 64", "a: b\nc: d\n", "c: d\na: b\n");
        blocks.check("3f 0f", "", "c: d\n"); // 46 bytes
        blocks.check("20 3f e1 1f", "", "");
        blocks.check("40 01 61 01 62", "a: b\n", "a: b\n");
    }

    #[test]
    fn what_is_never_to_be_indexed_is_sensitive() {
        let is_sensitive = |block: &str| {
            let mut is_sensitive = false;
            let take = |field| is_sensitive = matches!(field, Field::Header(_, value) if value.is_sensitive());
            Decoder::new(4096).decode(&bytes(block), 1000, take).unwrap();
            is_sensitive
        };
        assert!(is_sensitive("10 01 61 01 62"));
        assert!(!is_sensitive("00 01 61 01 62"));
        assert!(!is_sensitive("40 01 61 01 62"));
    }
}
