//! From a struct or an enum to its schema, and to how it is read from a configuration.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{
    Attribute, Data, DataEnum, DataStruct, DeriveInput, Error, Expr, ExprArray, ExprLit, ExprUnary, Field, Fields,
    GenericArgument, Lit, LitStr, Path, PathArguments, Result, Type, UnOp, parse_quote,
};

pub fn derive(input: TokenStream) -> Result<TokenStream> {
    let input: DeriveInput = syn::parse2(input)?;
    if !input.generics.params.is_empty() {
        return Err(Error::new_spanned(&input.generics, "a configuration cannot be generic: its schema is one"));
    }
    let of_all = Options::of(&input.attrs, &["crate", "open"])?;
    let sdk = of_all.sdk.clone().unwrap_or_else(|| parse_quote!(::nexum_sdk));
    let (schema, body) = match &input.data {
        Data::Struct(data) => table(&sdk, data, of_all.open, input.ident.span())?,
        Data::Enum(data) => choice(&sdk, data, input.ident.span())?,
        Data::Union(_) => return Err(Error::new(input.ident.span(), "a configuration is a struct or an enum")),
    };
    let (name, private) = (&input.ident, quote!(#sdk::__private));
    Ok(quote! {
        #[automatically_derived]
        impl #private::ConfigType for #name {
            const SCHEMA: &'static str = {
                const PARTS: &[&str] = &[#(#schema),*];
                const TEXT: [u8; #private::length(PARTS)] = #private::joined(PARTS);
                #private::utf8(&TEXT)
            };

            #body
        }
    })
}

/// What `#[config(…)]` says.
#[derive(Default)]
struct Options {
    sdk: Option<Path>,
    open: bool,
    name: Option<LitStr>,
    parse: bool,
    /// As JSON.
    default: Option<String>,
    min: Option<String>,
    max: Option<String>,
    max_items: Option<String>,
}

impl Options {
    fn of(attributes: &[Attribute], allowed: &[&str]) -> Result<Self> {
        let mut options = Self::default();
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("config")) {
            attribute.parse_nested_meta(|meta| {
                let known = allowed.iter().find(|name| meta.path.is_ident(name)).copied();
                let Some(key) = known else {
                    let known: Vec<_> = allowed.iter().map(|name| format!("`{name}`")).collect();
                    return Err(meta.error(format!("there is no such option here; known are {}", known.join(", "))));
                };
                match key {
                    "crate" => options.sdk = Some(meta.value()?.parse()?),
                    "open" => options.open = true,
                    "parse" => options.parse = true,
                    "name" => options.name = Some(meta.value()?.parse()?),
                    "default" => options.default = Some(json(&meta.value()?.parse()?)?),
                    "min" => options.min = Some(json(&meta.value()?.parse()?)?),
                    "max" => options.max = Some(json(&meta.value()?.parse()?)?),
                    _ => options.max_items = Some(json(&meta.value()?.parse()?)?),
                }
                Ok(())
            })?;
        }
        Ok(options)
    }
}

/// A literal, or a list of them, as JSON.
fn json(expression: &Expr) -> Result<String> {
    match expression {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Ok(quoted(&text.value())),
        Expr::Lit(ExprLit { lit: Lit::Int(number), .. }) => Ok(number.base10_digits().to_owned()),
        Expr::Lit(ExprLit { lit: Lit::Bool(flag), .. }) => Ok(flag.value.to_string()),
        Expr::Unary(ExprUnary { op: UnOp::Neg(_), expr, .. }) => Ok(format!("-{}", json(expr)?)),
        Expr::Array(ExprArray { elems, .. }) => {
            let items = elems.iter().map(json).collect::<Result<Vec<_>>>()?;
            Ok(format!("[{}]", items.join(",")))
        }
        other => Err(Error::new_spanned(other, "expected text, a whole number, true or false, or a list of these")),
    }
}

/// A text as JSON.
fn quoted(text: &str) -> String {
    let mut json = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => json.extend(['\\', letter]),
            letter if u32::from(letter) < 0x20 => json += &format!("\\u{:04x}", u32::from(letter)),
            letter => json.push(letter),
        }
    }
    json.push('"');
    json
}

/// The doc comment as one line.
fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter(|attribute| attribute.path().is_ident("doc")).filter_map(|attribute| {
        let Expr::Lit(ExprLit { lit: Lit::Str(line), .. }) = &attribute.meta.require_name_value().ok()?.value else {
            return None;
        };
        Some(line.value().trim().to_owned())
    });
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// What is between the angle brackets of this generic type, if it is that.
fn inner<'a>(of: &str, ty: &'a Type) -> Option<&'a Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last().filter(|segment| segment.ident == of)?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first() {
        Some(GenericArgument::Type(ty)) if arguments.args.len() == 1 => Some(ty),
        _ => None,
    }
}

fn table(sdk: &Path, data: &DataStruct, open: bool, span: Span) -> Result<(Vec<TokenStream>, TokenStream)> {
    let Fields::Named(fields) = &data.fields else {
        return Err(Error::new(span, "a configuration's fields have names: they are its keys"));
    };
    let (mut parts, mut reads) = (vec![quote!("{\"kind\":\"table\",\"fields\":[")], Vec::new());
    for (nth, field) in fields.named.iter().enumerate() {
        if nth > 0 {
            parts.push(quote!(","));
        }
        let (schema, read) = key(sdk, field)?;
        parts.extend(schema);
        reads.push(read);
    }
    let end = format!("],\"open\":{open}}}");
    parts.push(quote!(#end));
    let private = quote!(#sdk::__private);
    let body = quote! {
        fn from_value(_: &#sdk::Value) -> ::core::result::Result<Self, ::std::string::String> {
            ::core::result::Result::Err("expected a table".to_owned())
        }

        fn is_in(config: &#sdk::Config, key: &str) -> bool {
            #private::has_table(config, key)
        }

        fn read(
            config: &#sdk::Config,
            key: &str,
            _: ::core::option::Option<&str>,
        ) -> #sdk::Result<Self> {
            ::core::result::Result::Ok(Self { #(#reads),* })
        }
    };
    Ok((parts, body))
}

/// The JSON of one field, and how it is read.
fn key(sdk: &Path, field: &Field) -> Result<(Vec<TokenStream>, TokenStream)> {
    let Some(ident) = &field.ident else { unreachable!("a field without a name") };
    let options = Options::of(&field.attrs, &["name", "parse", "default", "min", "max", "max_items"])?;
    let private = quote!(#sdk::__private);
    let name = options.name.as_ref().map_or_else(|| ident.to_string().replace("r#", ""), LitStr::value);
    if name.is_empty() || name.contains('.') {
        return Err(Error::new(ident.span(), "the name of a key has no dot in it, and is not empty"));
    }
    let optional = inner("Option", &field.ty);
    let whole = optional.unwrap_or(&field.ty);
    let item = inner("Vec", whole);
    let of_one = item.unwrap_or(whole);
    if optional.is_some() && options.default.is_some() {
        return Err(Error::new_spanned(&field.ty, "what has a default is there: leave the `Option` out"));
    }
    if item.is_none() && options.max_items.is_some() {
        return Err(Error::new_spanned(&field.ty, "`max_items` is of a list: `Vec<T>`"));
    }
    if options.parse && (options.min.is_some() || options.max.is_some()) {
        return Err(Error::new_spanned(&field.ty, "what is parsed has no `min` and no `max`: its type checks itself"));
    }

    let head = format!("{{\"name\":{},\"doc\":{},\"type\":", quoted(&name), quoted(&doc(&field.attrs)));
    let mut parts = vec![quote!(#head)];
    let schema = match options.parse {
        true => quote!(<::std::string::String as #private::ConfigType>::SCHEMA),
        false => quote_spanned!(of_one.span()=> <#of_one as #private::ConfigType>::SCHEMA),
    };
    match item {
        Some(_) => parts.extend([quote!("{\"kind\":\"list\",\"item\":"), schema, quote!("}")]),
        None => parts.push(schema),
    }
    let mut tail = format!(",\"optional\":{}", optional.is_some());
    let given = [("default", &options.default), ("min", &options.min), ("max", &options.max)];
    for (key, value) in given.into_iter().chain([("max_items", &options.max_items)]) {
        if let Some(value) = value {
            tail += &format!(",\"{key}\":{value}");
        }
    }
    tail.push('}');
    parts.push(quote!(#tail));

    let default = match &options.default {
        Some(default) => quote!(::core::option::Option::Some(#default)),
        None => quote!(::core::option::Option::None),
    };
    let place = quote!(&#private::below(key, #name));
    let value = match (options.parse, item.is_some()) {
        (false, false) => {
            quote_spanned!(of_one.span()=> <#of_one as #private::ConfigType>::read(config, #place, #default)?)
        }
        (false, true) => quote_spanned!(of_one.span()=> #private::read_list::<#of_one>(config, #place, #default)?),
        (true, false) => quote_spanned!(of_one.span()=> #private::read_parsed::<#of_one>(config, #place, #default)?),
        (true, true) => {
            quote_spanned!(of_one.span()=> #private::read_parsed_list::<#of_one>(config, #place, #default)?)
        }
    };
    let read = match optional {
        None => quote!(#ident: #value),
        Some(_) => {
            let there = match options.parse || item.is_some() {
                true => quote!(config.contains(#place)),
                false => quote!(<#of_one as #private::ConfigType>::is_in(config, #place)),
            };
            quote!(#ident: if #there { ::core::option::Option::Some(#value) } else { ::core::option::Option::None })
        }
    };
    Ok((parts, read))
}

fn choice(sdk: &Path, data: &DataEnum, span: Span) -> Result<(Vec<TokenStream>, TokenStream)> {
    let (mut names, mut arms) = (Vec::new(), Vec::new());
    for variant in &data.variants {
        if !matches!(variant.fields, Fields::Unit) {
            return Err(Error::new_spanned(variant, "a choice has no fields: it is one word"));
        }
        let options = Options::of(&variant.attrs, &["name"])?;
        let name = options.name.as_ref().map_or_else(|| kebab(&variant.ident.to_string()), LitStr::value);
        if names.contains(&name) {
            return Err(Error::new_spanned(variant, format!("`{name}` is a choice already")));
        }
        let ident = &variant.ident;
        arms.push(quote!(#name => ::core::result::Result::Ok(Self::#ident)));
        names.push(name);
    }
    if names.is_empty() {
        return Err(Error::new(span, "a choice of nothing cannot be made"));
    }
    let quotes: Vec<_> = names.iter().map(|name| quoted(name)).collect();
    let schema = format!("{{\"kind\":\"choice\",\"of\":[{}]}}", quotes.join(","));
    let wanted = format!("expected one of {}", names.join(", "));
    let text = format_ident!("text");
    let body = quote! {
        fn from_value(value: &#sdk::Value) -> ::core::result::Result<Self, ::std::string::String> {
            let #sdk::Value::Scalar(#sdk::Scalar::String(#text)) = value else {
                return ::core::result::Result::Err(#wanted.to_owned());
            };
            match #text.as_str() {
                #(#arms,)*
                _ => ::core::result::Result::Err(#wanted.to_owned()),
            }
        }
    };
    Ok((vec![quote!(#schema)], body))
}

/// `HighOnly` as `high-only`.
fn kebab(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_put_together_from_the_types_and_what_is_said_of_them() {
        let out = derive(quote!(
            struct Settings {
                /// How often,
                /// in "blocks".
                #[config(default = 10, min = 1)]
                every: u64,
                #[config(name = "hooks", max_items = 2)]
                secrets: Option<Vec<SecretName>>,
            }
        ));
        let out = out.unwrap().to_string();
        let every = quoted(r#"{"name":"every","doc":"How often, in \"blocks\".","type":"#);
        assert!(out.contains(&every), "{every} is not in {out}");
        assert!(out.contains("< u64 as :: nexum_sdk :: __private :: ConfigType > :: SCHEMA"), "{out}");
        assert!(out.contains(&quoted(r#","optional":false,"default":10,"min":1}"#)), "{out}");
        assert!(out.contains(&quoted(r#","optional":true,"max_items":2}"#)) && out.contains("\"hooks\""), "{out}");
        assert!(out.contains("read_list :: < SecretName >"), "{out}");
    }

    #[test]
    fn a_choice_is_the_words_of_its_variants() {
        let out = derive(quote!(
            enum Mode {
                HighOnly,
                #[config(name = "ALL")]
                All,
            }
        ));
        let out = out.unwrap().to_string();
        assert!(out.contains(&quoted(r#"{"kind":"choice","of":["high-only","ALL"]}"#)), "{out}");
        assert!(out.contains(r#""expected one of high-only, ALL""#), "{out}");
    }

    #[test]
    fn refusals() {
        for (item, message) in [
            (
                quote!(
                    struct S<T> {
                        a: T,
                    }
                ),
                "a configuration cannot be generic: its schema is one",
            ),
            (
                quote!(
                    struct S(u64);
                ),
                "a configuration's fields have names: they are its keys",
            ),
            (quote!(union S { a: u64 }), "a configuration is a struct or an enum"),
            (
                quote!(
                    enum E {
                        A(u64),
                    }
                ),
                "a choice has no fields: it is one word",
            ),
            (
                quote!(
                    enum E {}
                ),
                "a choice of nothing cannot be made",
            ),
            (
                quote!(
                    enum E {
                        A,
                        #[config(name = "a")]
                        B,
                    }
                ),
                "`a` is a choice already",
            ),
            (
                quote!(
                    struct S {
                        #[config(defualt = 1)]
                        a: u64,
                    }
                ),
                "there is no such option here; known are `name`, `parse`, `default`, `min`, `max`, `max_items`",
            ),
            (
                quote!(
                    struct S {
                        #[config(default = 1 + 1)]
                        a: u64,
                    }
                ),
                "expected text, a whole number, true or false, or a list of these",
            ),
            (
                quote!(
                    struct S {
                        #[config(default = 1)]
                        a: Option<u64>,
                    }
                ),
                "what has a default is there: leave the `Option` out",
            ),
            (
                quote!(
                    struct S {
                        #[config(max_items = 1)]
                        a: u64,
                    }
                ),
                "`max_items` is of a list: `Vec<T>`",
            ),
            (
                quote!(
                    struct S {
                        #[config(parse, min = 1)]
                        a: U,
                    }
                ),
                "what is parsed has no `min` and no `max`: its type checks itself",
            ),
            (
                quote!(
                    struct S {
                        #[config(name = "a.b")]
                        a: u64,
                    }
                ),
                "the name of a key has no dot in it, and is not empty",
            ),
        ] {
            assert_eq!(derive(item).unwrap_err().to_string(), message);
        }
    }
}
