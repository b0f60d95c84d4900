//! Arbitrary messages with any nesting of any types, most of which belong to no method.

use proptest::prelude::*;
use thrift::protocol::{
    TBinaryOutputProtocol, TCompactOutputProtocol, TFieldIdentifier, TListIdentifier, TMapIdentifier,
    TMessageIdentifier, TMessageType, TOutputProtocol, TSetIdentifier, TStructIdentifier, TType,
};

use super::*;

#[derive(Clone, Debug)]
pub enum Tree {
    Bool(bool),
    I8(i8),
    I16(i16),
    I32(i32),
    I64(i64),
    Double(f64),
    Bytes(Vec<u8>),
    Struct(Vec<(i16, Tree)>),
    /// The first element, and how often it occurs. The elements of a container have one type.
    List(Box<Tree>, usize),
    Set(Box<Tree>, usize),
    Map(Box<Tree>, Box<Tree>, usize),
}

pub fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Tree::Bool),
        any::<i8>().prop_map(Tree::I8),
        any::<i16>().prop_map(Tree::I16),
        any::<i32>().prop_map(Tree::I32),
        any::<i64>().prop_map(Tree::I64),
        any::<f64>().prop_map(Tree::Double),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Tree::Bytes),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        let boxed = || inner.clone().prop_map(Box::new);
        prop_oneof![
            fields(inner.clone()).prop_map(Tree::Struct),
            (boxed(), 0..20usize).prop_map(|(element, count)| Tree::List(element, count)),
            (boxed(), 0..20usize).prop_map(|(element, count)| Tree::Set(element, count)),
            (boxed(), boxed(), 0..20usize).prop_map(|(key, item, count)| Tree::Map(key, item, count)),
        ]
    })
}

fn fields(inner: impl Strategy<Value = Tree>) -> impl Strategy<Value = Vec<(i16, Tree)>> {
    prop::collection::vec((1..400i16, inner), 0..5)
}

/// A call of some method, with these fields as arguments.
pub fn message() -> impl Strategy<Value = (String, i32, Vec<(i16, Tree)>)> {
    ("[a-zA-Z]{0,20}", any::<i32>(), fields(tree()))
}

pub fn encode(encoding: Encoding, name: &str, sequence_id: i32, fields: &[(i16, Tree)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let identifier = TMessageIdentifier::new(name, TMessageType::Call, sequence_id);
    let write = |output: &mut dyn TOutputProtocol| {
        output.write_message_begin(&identifier)?;
        write_fields(output, fields)?;
        output.write_message_end()
    };
    match encoding.protocol {
        Protocol::Binary => write(&mut TBinaryOutputProtocol::new(&mut bytes, true)),
        Protocol::Compact => write(&mut TCompactOutputProtocol::new(&mut bytes)),
    }
    .expect("writing to memory does not fail");
    if encoding.framed {
        let length = (bytes.len() as u32).to_be_bytes();
        bytes.splice(0..0, length);
    }
    bytes
}

fn write_fields(output: &mut dyn TOutputProtocol, fields: &[(i16, Tree)]) -> thrift::Result<()> {
    output.write_struct_begin(&TStructIdentifier::new("any"))?;
    for (id, tree) in fields {
        output.write_field_begin(&TFieldIdentifier { name: None, field_type: tree.type_of(), id: Some(*id) })?;
        tree.write(output)?;
        output.write_field_end()?;
    }
    output.write_field_stop()?;
    output.write_struct_end()
}

impl Tree {
    fn type_of(&self) -> TType {
        match self {
            Tree::Bool(_) => TType::Bool,
            Tree::I8(_) => TType::I08,
            Tree::I16(_) => TType::I16,
            Tree::I32(_) => TType::I32,
            Tree::I64(_) => TType::I64,
            Tree::Double(_) => TType::Double,
            Tree::Bytes(_) => TType::String,
            Tree::Struct(_) => TType::Struct,
            Tree::List(..) => TType::List,
            Tree::Set(..) => TType::Set,
            Tree::Map(..) => TType::Map,
        }
    }

    fn write(&self, output: &mut dyn TOutputProtocol) -> thrift::Result<()> {
        match self {
            Tree::Bool(value) => output.write_bool(*value),
            Tree::I8(value) => output.write_i8(*value),
            Tree::I16(value) => output.write_i16(*value),
            Tree::I32(value) => output.write_i32(*value),
            Tree::I64(value) => output.write_i64(*value),
            Tree::Double(value) => output.write_double(*value),
            Tree::Bytes(value) => output.write_bytes(value),
            Tree::Struct(fields) => write_fields(output, fields),
            Tree::List(element, count) => {
                output.write_list_begin(&TListIdentifier::new(element.type_of(), *count as i32))?;
                (0..*count).try_for_each(|_| element.write(output))?;
                output.write_list_end()
            }
            Tree::Set(element, count) => {
                output.write_set_begin(&TSetIdentifier::new(element.type_of(), *count as i32))?;
                (0..*count).try_for_each(|_| element.write(output))?;
                output.write_set_end()
            }
            Tree::Map(key, item, count) => {
                output.write_map_begin(&TMapIdentifier::new(key.type_of(), item.type_of(), *count as i32))?;
                for _ in 0..*count {
                    key.write(output)?;
                    item.write(output)?;
                }
                output.write_map_end()
            }
        }
    }
}
