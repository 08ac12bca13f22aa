//! The library that backend libraries ask for by name, made in memory: an ELF file without code, whose symbols are the
//! addresses of the functions in this process. So it needs no file beside the program, and a call costs what any call of a
//! library costs.
//!
//! Source: System V ABI, "Dynamic Linking"; symbols with `SHN_ABS` are addresses as they stand (glibc 2.28 and later).

use object::{
    Endianness, elf,
    write::elf::{FileHeader, ProgramHeader, Sym, Writer},
};

use crate::abi::Export;

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = elf::EM_X86_64;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = elf::EM_AARCH64;

const PAGE: u64 = 4096;
const PROGRAM_HEADERS: u32 = 3;
const DYNAMIC_ENTRIES: usize = 7;

/// The bytes of a shared library of that name with those symbols.
///
/// Errors: the text of the writer, if a library cannot have so many.
pub(super) fn shared_library(soname: &str, exports: &[Export]) -> Result<Vec<u8>, object::write::Error> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(Endianness::Little, true, &mut bytes);
    let symbols = u32::try_from(exports.len() + 1).unwrap_or(u32::MAX);

    writer.reserve_file_header();
    writer.reserve_program_headers(PROGRAM_HEADERS);
    let soname = writer.add_dynamic_string(soname.as_bytes());
    writer.reserve_null_dynamic_symbol_index();
    let names: Vec<_> = exports
        .iter()
        .map(|export| {
            writer.reserve_dynamic_symbol_index();
            writer.add_dynamic_string(export.name.as_bytes())
        })
        .collect();
    let hash = writer.reserve_hash(symbols, symbols);
    let table = writer.reserve_dynsym();
    let strings = writer.reserve_dynstr();
    let dynamic = writer.reserve_dynamic(DYNAMIC_ENTRIES);
    let end = writer.reserved_len();
    let dynamic_size = (end - dynamic) as u64;

    writer.write_file_header(&FileHeader {
        os_abi: elf::ELFOSABI_SYSV,
        abi_version: 0,
        e_type: elf::ET_DYN,
        e_machine: MACHINE,
        e_entry: 0,
        e_flags: 0,
    })?;
    writer.write_align_program_headers();
    let header = |p_type, p_flags, offset: u64, size: u64, p_align| ProgramHeader {
        p_type,
        p_flags,
        p_offset: offset,
        p_vaddr: offset,
        p_paddr: offset,
        p_filesz: size,
        p_memsz: size,
        p_align,
    };
    // the loader writes addresses into the dynamic section; without the last header it would take a stack with code for wanted
    writer.write_program_header(&header(elf::PT_LOAD, elf::PF_R | elf::PF_W, 0, end as u64, PAGE));
    writer.write_program_header(&header(elf::PT_DYNAMIC, elf::PF_R | elf::PF_W, dynamic as u64, dynamic_size, 8));
    writer.write_program_header(&header(elf::PT_GNU_STACK, elf::PF_R | elf::PF_W, 0, 0, 16));
    writer.write_hash(symbols, symbols, |index| {
        let export = (index as usize).checked_sub(1).and_then(|index| exports.get(index));
        export.map(|export| elf::hash(export.name.as_bytes()))
    });
    writer.write_null_dynamic_symbol();
    for (export, name) in exports.iter().zip(names) {
        writer.write_dynamic_symbol(&Sym {
            name: Some(name),
            section: None,
            st_info: (elf::STB_GLOBAL << 4) | elf::STT_FUNC,
            st_other: elf::STV_DEFAULT,
            st_shndx: elf::SHN_ABS,
            st_value: export.address as u64,
            st_size: 0,
        });
    }
    writer.write_dynstr();
    let strings_size = writer.dynstr_len() as u64;
    writer.write_align_dynamic();
    writer.write_dynamic_string(elf::DT_SONAME, soname)?;
    for (tag, value) in [
        (elf::DT_HASH, hash as u64),
        (elf::DT_STRTAB, strings as u64),
        (elf::DT_STRSZ, strings_size),
        (elf::DT_SYMTAB, table as u64),
        (elf::DT_SYMENT, size_of::<elf::Sym64<Endianness>>() as u64),
        (elf::DT_NULL, 0),
    ] {
        writer.write_dynamic(tag, value)?;
    }
    Ok(bytes)
}
