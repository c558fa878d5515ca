//! The type of a key or a value, complete in itself.

use super::types::{Btf, View};

/// A type of data in a map, complete in itself: what is needed to read and write a key or a value by its C form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An integer of so many bytes (1, 2, 4, 8 or 16), in the machine's (little-endian) order.
    Int {
        /// Bytes.
        size: u32,
        /// Whether it has a sign.
        signed: bool,
        /// Whether it is text: the type is called `char`.
        character: bool,
    },
    /// So many elements, one behind the other.
    Array {
        /// The type of each.
        element: Box<Shape>,
        /// How many.
        count: u32,
    },
    /// A structure or a union.
    Struct {
        /// Its name, empty when it has none.
        name: String,
        /// Bytes.
        size: u32,
        /// Its members, in the order of the source.
        members: Vec<Member>,
    },
    /// Bytes that have no form that we know (a float, a pointer, a bit field, a type nested too deeply).
    Opaque {
        /// Bytes.
        size: u32,
    },
}

/// A member of a [`Shape::Struct`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name, empty when it has none.
    pub name: String,
    /// Bytes from the start of the structure.
    pub offset: u32,
    /// Its type.
    pub shape: Shape,
}

/// Structures and arrays inside each other.
const MAX_DEPTH: u32 = 8;
/// Types that one shape is made of.
const MAX_NODES: usize = 1024;

impl Shape {
    /// Bytes that a value of this type takes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Int { size, .. } | Self::Struct { size, .. } | Self::Opaque { size } => u64::from(*size),
            Self::Array { element, count } => element.size().saturating_mul(u64::from(*count)),
        }
    }

    /// The shape of type `id`, or `None` when its size is not known.
    pub(crate) fn of(btf: &Btf<'_>, id: u32) -> Option<Self> {
        shape(btf, id, MAX_DEPTH, &mut { MAX_NODES })
    }
}

fn shape(btf: &Btf<'_>, id: u32, depth: u32, nodes: &mut usize) -> Option<Shape> {
    let size = u32::try_from(btf.size_of(id)?).ok()?;
    if depth == 0 || *nodes == 0 {
        return Some(Shape::Opaque { size });
    }
    *nodes -= 1;
    Some(match btf.view(id)? {
        View::Int { size, signed, character } => Shape::Int { size, signed, character },
        View::Enum { size, signed } => Shape::Int { size, signed, character: false },
        View::Array { element, count } => {
            Shape::Array { element: Box::new(shape(btf, element, depth - 1, nodes)?), count }
        }
        View::Struct { size, members } => {
            let mut shapes = Vec::new();
            for member in members {
                // A bit field, or a member of a type that is not known: the structure as a whole is bytes.
                let (Some(offset), true) = (member.offset, *nodes != 0) else {
                    return Some(Shape::Opaque { size });
                };
                let Some(shape) = shape(btf, member.kind, depth - 1, nodes) else {
                    return Some(Shape::Opaque { size });
                };
                if u64::from(offset) + shape.size() > u64::from(size) {
                    return Some(Shape::Opaque { size });
                }
                match (btf.string(member.name), shape) {
                    // Members of a structure without a name are named as if they were its own.
                    ("", Shape::Struct { members, .. }) => {
                        let inner = |inner: Member| Member { offset: offset + inner.offset, ..inner };
                        shapes.extend(members.into_iter().map(inner));
                    }
                    (name, shape) => shapes.push(Member { name: name.into(), offset, shape }),
                }
            }
            Shape::Struct { name: btf.name_of(id).into(), size, members: shapes }
        }
        View::Pointer { .. } | View::Float { .. } | View::Other => Shape::Opaque { size },
    })
}
