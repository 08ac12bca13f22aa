//! What a library asks of others, read from its dynamic symbol table before it is opened: the loader would name only the
//! first function that it does not find.

use std::{collections::BTreeSet, fs::File, path::Path};

use object::{
    Endianness, ReadCache, ReadRef, elf,
    read::{
        self,
        elf::{FileHeader, Sym},
    },
};

/// How the functions are called that a server has for its libraries.
const PREFIXES: [&str; 4] = ["TRITONSERVER_", "TRITONBACKEND_", "TRITONREPOAGENT_", "TRITONCACHE_"];

/// What a library asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Imports {
    /// The libraries that it names.
    pub(super) libraries: Vec<String>,
    /// Functions of the server without which it cannot be opened, by name.
    pub(super) functions: BTreeSet<String>,
}

/// Reads what the library in that file asks for.
///
/// Errors: the file cannot be read, or is no shared library of this machine's kind; the reason, as the end of a sentence.
pub(super) fn read(path: &Path) -> Result<Imports, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    parse(&ReadCache::new(file)).map_err(|error| format!("it is not a shared library: {error}"))
}

fn parse<'data, R: ReadRef<'data>>(data: R) -> read::Result<Imports> {
    let header = elf::FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, data)?;
    let mut imports = Imports::default();
    let dynamic = sections.dynamic_table(endian, data)?;
    for entry in dynamic.iter() {
        if entry.tag == elf::DT_NEEDED {
            imports.libraries.push(String::from_utf8_lossy(dynamic.string(entry)?).into_owned());
        }
    }
    let symbols = sections.symbols(endian, data, elf::SHT_DYNSYM)?;
    for symbol in symbols.iter().filter(|symbol| symbol.is_undefined(endian) && symbol.st_bind() == elf::STB_GLOBAL) {
        let name = String::from_utf8_lossy(symbol.name(endian, symbols.strings())?).into_owned();
        if PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            imports.functions.insert(name);
        }
    }
    Ok(imports)
}
