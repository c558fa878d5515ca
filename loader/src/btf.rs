//! BTF: the types and the line table that compilers put beside bytecode.

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
    /// Bytes that have no form that we know (a float, a bit field, a type nested too deeply).
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

impl Shape {
    /// Bytes that a value of this type takes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Int { size, .. } | Self::Struct { size, .. } | Self::Opaque { size } => u64::from(*size),
            Self::Array { element, count } => element.size().saturating_mul(u64::from(*count)),
        }
    }
}
