//! The type section, `.BTF`.

use super::{BtfError, header_length, range, u32_at};
use crate::object::text_at;

/// The types of an object, by the number that they have in the file.
pub struct Btf<'a> {
    strings: &'a [u8],
    types: Vec<Type<'a>>,
}

/// One type, as it stands in the file: `void` is number 0, the others are counted from 1.
#[derive(Clone, Copy, Debug)]
pub struct Type<'a> {
    /// Offset of its name.
    name: u32,
    kind: u8,
    /// Whether members are bit fields.
    bits: bool,
    /// Its size in bytes, or the number of the type that it refers to.
    size_or_type: u32,
    /// What follows: encoding, array, members.
    rest: &'a [u8],
}

/// A variable of a data section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable<'a> {
    /// Its name, as the symbol of the object.
    pub name: &'a str,
    /// The number of its type.
    pub kind: u32,
}

/// Kinds of type, as they are numbered in the file.
mod kind {
    pub(super) const INT: u8 = 1;
    pub(super) const PTR: u8 = 2;
    pub(super) const ARRAY: u8 = 3;
    pub(super) const STRUCT: u8 = 4;
    pub(super) const UNION: u8 = 5;
    pub(super) const ENUM: u8 = 6;
    pub(super) const FWD: u8 = 7;
    pub(super) const TYPEDEF: u8 = 8;
    pub(super) const VOLATILE: u8 = 9;
    pub(super) const CONST: u8 = 10;
    pub(super) const RESTRICT: u8 = 11;
    pub(super) const FUNC: u8 = 12;
    pub(super) const FUNC_PROTO: u8 = 13;
    pub(super) const VAR: u8 = 14;
    pub(super) const DATASEC: u8 = 15;
    pub(super) const FLOAT: u8 = 16;
    pub(super) const DECL_TAG: u8 = 17;
    pub(super) const TYPE_TAG: u8 = 18;
    pub(super) const ENUM64: u8 = 19;
}

/// Bytes of the part that every type has.
const COMMON: usize = 12;
/// Typedefs, qualifiers and elements that are looked through on the way to a type.
const MAX_CHAIN: usize = 32;

/// Bytes of a name or a source line that are kept; nobody reads further.
const MAX_TEXT: usize = 512;

/// What a type is, looked at from outside.
pub(super) enum View<'a> {
    Int { size: u32, signed: bool, character: bool },
    Pointer { to: u32 },
    Array { element: u32, count: u32 },
    Struct { size: u32, members: Members<'a> },
    Enum { size: u32, signed: bool },
    Float { size: u32 },
    Other,
}

/// A type as it stands in the file, taken apart.
pub(super) enum Raw<'a> {
    Int {
        size: u32,
        encoding: Encoding,
    },
    Pointer {
        to: u32,
    },
    Array {
        element: u32,
        count: u32,
    },
    /// `union` or `struct`.
    Struct {
        word: &'static str,
        size: u32,
        members: Vec<Bits<'a>>,
    },
    Enum {
        size: u32,
        values: Vec<(&'a str, i128)>,
    },
    Forward {
        word: &'static str,
    },
    Typedef {
        to: u32,
    },
    /// `const`, `volatile` or `restrict`; empty for a tag, which C has no word for.
    Qualifier {
        word: &'static str,
        to: u32,
    },
    Function {
        prototype: u32,
    },
    Prototype {
        returns: u32,
        params: Vec<(&'a str, u32)>,
    },
    Variable {
        kind: u32,
    },
    Section {
        variables: Vec<u32>,
    },
    Float {
        size: u32,
    },
    Tag {
        of: u32,
    },
}

/// How the bits of a number are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Unsigned,
    Signed,
    Character,
    Boolean,
}

/// A member with its place in bits; a width of 0 is that of its type.
pub(super) struct Bits<'a> {
    pub(super) name: &'a str,
    pub(super) kind: u32,
    pub(super) offset: u32,
    pub(super) width: u32,
}

/// The members of a structure.
pub(super) struct Members<'a> {
    rest: &'a [u8],
    bits: bool,
}

/// One member: where its name is, its type, and its offset in bytes unless it is a bit field.
pub(super) struct RawMember {
    pub(super) name: u32,
    pub(super) kind: u32,
    pub(super) offset: Option<u32>,
}

impl<'a> Btf<'a> {
    /// Reads the section `.BTF`.
    ///
    /// # Errors
    /// The section is cut short, of another version, or holds a kind of type that is not known.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let header = u64::from(header_length(bytes, ".BTF")?);
        let field = |at| u32_at(bytes, at).ok_or_else(|| BtfError::new(".BTF ends in its header"));
        let part = |offset: u32, length: u32, what: &str| {
            range(bytes, header + u64::from(offset), length)
                .ok_or_else(|| BtfError::new(format!("the {what} of .BTF lie outside of it")))
        };
        let types = part(field(8)?, field(12)?, "types")?;
        let strings = part(field(16)?, field(20)?, "names")?;
        Ok(Self { strings, types: read_types(types)? })
    }

    /// The string at `offset` of the names (its first 512 bytes), empty when there is none.
    pub fn string(&self, offset: u32) -> &'a str {
        text_at(self.strings, offset as usize, MAX_TEXT).unwrap_or_default()
    }

    /// The variables of the data section called `name`.
    pub fn variables(&self, name: &str) -> impl Iterator<Item = Variable<'a>> {
        let section = self.types.iter().find(|ty| ty.kind == kind::DATASEC && self.string(ty.name) == name);
        let entries = section.map_or([].as_slice(), |ty| ty.rest).chunks_exact(12);
        entries.filter_map(|entry| {
            let variable = self.get(u32_at(entry, 0)?)?;
            let is_variable = variable.kind == kind::VAR;
            is_variable.then(|| Variable { name: self.string(variable.name), kind: variable.size_or_type })
        })
    }

    /// The bytes that a value of type `id` takes, when that is known.
    pub fn size_of(&self, id: u32) -> Option<u64> {
        let mut id = id;
        let mut times = 1_u64;
        for _ in 0..MAX_CHAIN {
            let size = match self.view(id)? {
                View::Array { element, count } => {
                    times = times.saturating_mul(u64::from(count));
                    id = element;
                    continue;
                }
                View::Pointer { .. } => 8,
                View::Int { size, .. }
                | View::Struct { size, .. }
                | View::Enum { size, .. }
                | View::Float { size } => size,
                View::Other => return None,
            };
            return Some(times.saturating_mul(u64::from(size)));
        }
        None
    }

    /// The members of structure `id`: name and type of each.
    pub fn members(&self, id: u32) -> Option<impl Iterator<Item = (&'a str, u32)>> {
        match self.view(id)? {
            View::Struct { members, .. } => {
                Some(members.map(|member| (self.string(member.name), member.kind)))
            }
            _ => None,
        }
    }

    /// What pointer `id` points to.
    pub fn pointee(&self, id: u32) -> Option<u32> {
        match self.view(id)? {
            View::Pointer { to } => Some(to),
            _ => None,
        }
    }

    /// The number of elements of array `id`.
    pub fn array_length(&self, id: u32) -> Option<u32> {
        match self.view(id)? {
            View::Array { count, .. } => Some(count),
            _ => None,
        }
    }

    /// The name of structure, typedef or number `id`, without looking through anything.
    pub fn name_of(&self, id: u32) -> &'a str {
        self.get(id).map_or("", |ty| self.string(ty.name))
    }

    fn get(&self, id: u32) -> Option<&Type<'a>> {
        self.types.get((id as usize).checked_sub(1)?)
    }

    /// Types there are: their numbers are 1 to this.
    pub fn count(&self) -> u32 {
        self.types.len() as u32
    }

    /// What type `id` is, without looking through anything; `None` for `void` and numbers that no type has.
    pub(super) fn raw(&self, id: u32) -> Option<Raw<'a>> {
        let ty = self.get(id)?;
        let (size, to) = (ty.size_or_type, ty.size_or_type);
        // Names with the number that goes with them.
        let pairs = |width: usize| {
            let pair = |pair: &'a [u8]| Some((self.string(u32_at(pair, 0)?), u32_at(pair, 4)?));
            ty.rest.chunks_exact(width).filter_map(pair)
        };
        Some(match ty.kind {
            kind::INT => {
                let encoding = match u32_at(ty.rest, 0)? >> 24 {
                    encoding if encoding & 4 != 0 => Encoding::Boolean,
                    encoding if encoding & 2 != 0 => Encoding::Character,
                    encoding if encoding & 1 != 0 => Encoding::Signed,
                    _ => Encoding::Unsigned,
                };
                Raw::Int { size, encoding }
            }
            kind::PTR => Raw::Pointer { to },
            kind::ARRAY => Raw::Array { element: u32_at(ty.rest, 0)?, count: u32_at(ty.rest, 8)? },
            kind::STRUCT | kind::UNION => {
                let member = |member: &'a [u8]| {
                    let place = u32_at(member, 8)?;
                    let (width, offset) = if ty.bits { (place >> 24, place & 0xff_ffff) } else { (0, place) };
                    Some(Bits {
                        name: self.string(u32_at(member, 0)?),
                        kind: u32_at(member, 4)?,
                        offset,
                        width,
                    })
                };
                let word = if ty.kind == kind::UNION { "union" } else { "struct" };
                Raw::Struct { word, size, members: ty.rest.chunks_exact(12).filter_map(member).collect() }
            }
            kind::ENUM => {
                let number = |value: u32| if ty.bits { i128::from(value as i32) } else { i128::from(value) };
                Raw::Enum { size, values: pairs(8).map(|(name, value)| (name, number(value))).collect() }
            }
            kind::ENUM64 => {
                let value = |value: &'a [u8]| {
                    let number = u64::from(u32_at(value, 4)?) | u64::from(u32_at(value, 8)?) << 32;
                    let number = if ty.bits { i128::from(number as i64) } else { i128::from(number) };
                    Some((self.string(u32_at(value, 0)?), number))
                };
                Raw::Enum { size, values: ty.rest.chunks_exact(12).filter_map(value).collect() }
            }
            kind::FWD => Raw::Forward { word: if ty.bits { "union" } else { "struct" } },
            kind::TYPEDEF => Raw::Typedef { to },
            kind::CONST => Raw::Qualifier { word: "const", to },
            kind::VOLATILE => Raw::Qualifier { word: "volatile", to },
            kind::RESTRICT => Raw::Qualifier { word: "restrict", to },
            kind::TYPE_TAG => Raw::Qualifier { word: "", to },
            kind::FUNC => Raw::Function { prototype: to },
            kind::FUNC_PROTO => Raw::Prototype { returns: to, params: pairs(8).collect() },
            kind::VAR => Raw::Variable { kind: to },
            kind::DATASEC => {
                let variables = ty.rest.chunks_exact(12).filter_map(|entry| u32_at(entry, 0)).collect();
                Raw::Section { variables }
            }
            kind::FLOAT => Raw::Float { size },
            _ => Raw::Tag { of: to },
        })
    }

    /// What type `id` is behind its typedefs and qualifiers.
    pub(super) fn view(&self, id: u32) -> Option<View<'a>> {
        let mut ty = self.get(id)?;
        for _ in 0..MAX_CHAIN {
            match ty.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    ty = self.get(ty.size_or_type)?;
                }
                _ => return self.look(ty),
            }
        }
        None
    }

    fn look(&self, ty: &Type<'a>) -> Option<View<'a>> {
        let size = ty.size_or_type;
        Some(match ty.kind {
            kind::INT => {
                let encoding = u32_at(ty.rest, 0)? >> 24;
                let character = encoding & 2 != 0 || (size == 1 && self.string(ty.name).ends_with("char"));
                // A number of other than whole bytes is a bit field's old form.
                if u32_at(ty.rest, 0)? & 0xff != size.saturating_mul(8) {
                    return Some(View::Other);
                }
                View::Int { size, signed: encoding & 1 != 0, character }
            }
            kind::PTR => View::Pointer { to: ty.size_or_type },
            kind::ARRAY => View::Array { element: u32_at(ty.rest, 0)?, count: u32_at(ty.rest, 8)? },
            kind::STRUCT | kind::UNION => {
                View::Struct { size, members: Members { rest: ty.rest, bits: ty.bits } }
            }
            kind::ENUM | kind::ENUM64 => View::Enum { size, signed: ty.bits },
            kind::FLOAT => View::Float { size },
            _ => View::Other,
        })
    }
}

impl Iterator for Members<'_> {
    type Item = RawMember;

    fn next(&mut self) -> Option<RawMember> {
        let (member, rest) = self.rest.split_at_checked(12)?;
        self.rest = rest;
        let offset = u32_at(member, 8)?;
        let (width, offset) = if self.bits { (offset >> 24, offset & 0xff_ffff) } else { (0, offset) };
        let whole = width == 0 && offset % 8 == 0;
        Some(RawMember {
            name: u32_at(member, 0)?,
            kind: u32_at(member, 4)?,
            offset: whole.then_some(offset / 8),
        })
    }
}

fn read_types(mut bytes: &[u8]) -> Result<Vec<Type<'_>>, BtfError> {
    // Every type takes twelve bytes at least, so this is in proportion to the file.
    let mut types = Vec::with_capacity(bytes.len() / COMMON);
    while !bytes.is_empty() {
        let number = types.len() + 1;
        let cut = || BtfError::new(format!("type {number} of .BTF is cut short"));
        let (common, after) = bytes.split_at_checked(COMMON).ok_or_else(cut)?;
        let info = u32_at(common, 4).ok_or_else(cut)?;
        let kind = (info >> 24 & 0x1f) as u8;
        // Members, parameters or variables.
        let count = (info & 0xffff) as usize;
        let length = match kind {
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * count,
            kind::ENUM | kind::FUNC_PROTO => 8 * count,
            kind::PTR
            | kind::FWD
            | kind::TYPEDEF
            | kind::VOLATILE
            | kind::CONST
            | kind::RESTRICT
            | kind::FUNC
            | kind::FLOAT
            | kind::TYPE_TAG => 0,
            _ => {
                return Err(BtfError::new(format!(
                    "type {number} of .BTF is of kind {kind}, which is not known"
                )));
            }
        };
        let (rest, after) = after.split_at_checked(length).ok_or_else(cut)?;
        let (Some(name), Some(size_or_type)) = (u32_at(common, 0), u32_at(common, 8)) else {
            return Err(cut());
        };
        types.push(Type { name, kind, bits: info >> 31 != 0, size_or_type, rest });
        bytes = after;
    }
    Ok(types)
}
