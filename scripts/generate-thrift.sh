#!/bin/sh
# Generates the Rust structs of the Thrift interface. Needs the Apache Thrift compiler (0.17 or later) and rustfmt.
# The result is checked in, so that a build needs neither.
set -eu
cd "$(dirname "$0")/.."
idl=crates/kv-api/thrift/kvstore.thrift
target=crates/kv-api/src/thrift/generated.rs
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
thrift --strict --gen rs -out "$folder" "$idl"
# Changes to the compiler's output:
# - inner attributes move to the `mod` declaration;
# - a list reserves no more than 1024 places before its elements are read: its declared length cannot be trusted;
# - names of fields and structs, which no protocol here puts on the wire, are left out: each would be an allocation;
# - a field or element is read only if it was sent with the expected type: generated code checks numbers alone;
# - tokens have a type that does not show them. A field that holds one is called `auth_token`, or `token` in `authenticate`.
expect() { # the reading expression, the type that must have been sent
    printf '%s\n' \
        "s/^( *[0-9]+ => \\{\\n)( *)(let [a-z_]+ = $1)/\\1\\2super::expect_type(field_ident.field_type, TType::$2)?;\\n\\2\\3/" \
        "s/^( *)(let list_elem_[0-9]+ = $1)/\\1super::expect_type(list_ident.element_type, TType::$2)?;\\n\\1\\2/"
}
{
    printf '%s\n' '/^#!\[/d' '/^extern crate/d' \
        's/Vec::with_capacity\(list_ident.size as usize\)/Vec::with_capacity(list_ident.size.min(1024) as usize)/' \
        's/TFieldIdentifier::new\("[^"]*", (TType::[A-Za-z0-9]*), ([0-9]*)\)/TFieldIdentifier { name: None, field_type: \1, id: Some(\2) }/' \
        's/TStructIdentifier::new\("[^"]*"\)/TStructIdentifier { name: String::new() }/'
    token='super::PresentedToken'
    printf '%s\n' \
        "s/pub auth_token: Option<String>/pub auth_token: Option<$token>/" \
        "s/auth_token: auth_token\.into\(\)/auth_token: auth_token.into().map($token::from)/" \
        "s/auth_token: (f_[0-9]+)/auth_token: \\1.map($token::from)/" \
        "s/auth_token: Some\(\"\"\.to_owned\(\)\)/auth_token: Some(\"\".into())/" \
        '/ref fld_var\) = self\.auth_token/,/write_field_end/s/write_string\(fld_var\)/write_string(fld_var.reveal())/' \
        '/^pub struct AuthenticateRequest /,/^\/\/ AuthenticateResponse/{' \
        "s/token: String/token: $token/" \
        's/token: f_1\.expect\((.*)\)/token: f_1.expect(\1).into()/' \
        's/write_string\(&self\.token\)/write_string(self.token.reveal())/' \
        '}'
    echo '/^ *[0-9]+ => \{$/N'
    expect 'i_prot\.read_bytes\(' String
    expect 'i_prot\.read_string\(' String
    expect 'i_prot\.read_bool\(' Bool
    expect 'i_prot\.read_i32\(' I32
    expect 'i_prot\.read_i64\(' I64
    expect 'OrderedFloat::from\(i_prot\.read_double\(' Double
    expect 'i_prot\.read_list_begin\(' List
    expect '[A-Za-z]+::read_from_in_protocol\(' Struct
} >"$folder/changes.sed"
sed -E -f "$folder/changes.sed" "$folder/kvstore.rs" >"$target"
rustfmt --edition 2024 --config-path . "$target"
