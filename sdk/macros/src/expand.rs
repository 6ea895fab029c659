//! From a marked `impl` block to the block itself, an implementation of `Module` and the component's exports.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::parse::{Parse, ParseStream, Parser};
use syn::spanned::Spanned;
use syn::{Error, FnArg, ImplItem, ImplItemFn, ItemImpl, Path, Result, ReturnType, Token, Type, parse_quote};

/// The marks of event handlers, and what each handler takes.
const HANDLERS: [(&str, &str); 6] = [
    ("on_block", "Block"),
    ("on_logs", "Vec<Log>"),
    ("on_tick", "Tick"),
    ("on_message", "Message"),
    ("on_reorg", "Reorg"),
    ("on_outcome", "Outcome"),
];

const INIT: &str = "init";
const QUERY: &str = "query";

pub fn module(args: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let sdk = sdk_path.parse2(args)?;
    let mut block: ItemImpl = syn::parse2(item).map_err(|error| {
        Error::new(error.span(), "`#[module]` goes on the `impl` block of the struct that is the module")
    })?;
    if let Some((_, path, _)) = &block.trait_ {
        return Err(Error::new_spanned(path, "`#[module]` goes on an inherent `impl` block, not on that of a trait"));
    }
    if !block.generics.params.is_empty() {
        return Err(Error::new_spanned(&block.generics, "a module cannot be generic: the host needs one type"));
    }

    let marked = take_marks(&mut block)?;
    let this = &block.self_ty;
    let init = match &marked.init {
        Some(method) => call_init(&sdk, method)?,
        // Spanned at the type, so that a missing `Default` is reported there.
        None => quote_spanned! {this.span()=>
            let _ = config;
            ::core::result::Result::Ok(<#this as ::core::default::Default>::default())
        },
    };
    let handlers =
        marked.handlers.iter().map(|(kind, method)| handler(&sdk, kind, method)).collect::<Result<Vec<_>>>()?;
    let query = marked.query.as_ref().map(|method| query(&sdk, method)).transpose()?;
    let exports = exports(&sdk, this, query.is_some());
    let schema = marked.init.as_ref().and_then(|method| schema(&sdk, this, method));

    Ok(quote! {
        #block

        #[automatically_derived]
        impl #sdk::Module for #this {
            fn init(config: #sdk::Config) -> #sdk::Result<Self> {
                #init
            }

            #(#handlers)*

            #query
        }

        #exports

        #schema
    })
}

/// Reads `crate = path`, or nothing.
fn sdk_path(input: ParseStream<'_>) -> Result<Path> {
    if input.is_empty() {
        return Ok(parse_quote!(::nexum_sdk));
    }
    input
        .parse::<Token![crate]>()
        .map_err(|error| Error::new(error.span(), "the only option is `crate = path::to::nexum_sdk`"))?;
    input.parse::<Token![=]>()?;
    Path::parse(input)
}

struct Marked {
    init: Option<ImplItemFn>,
    query: Option<ImplItemFn>,
    handlers: Vec<(Ident, ImplItemFn)>,
}

/// Takes the marks off the methods, and checks that each is known and used once.
fn take_marks(block: &mut ItemImpl) -> Result<Marked> {
    let mut marked = Marked { init: None, query: None, handlers: Vec::new() };
    for item in &mut block.items {
        let ImplItem::Fn(method) = item else { continue };
        let mut marks = Vec::new();
        let mut kept = Vec::new();
        for attribute in std::mem::take(&mut method.attrs) {
            match attribute.path().get_ident() {
                Some(name) if name == INIT || name == QUERY || HANDLERS.iter().any(|(known, _)| name == known) => {
                    attribute.meta.require_path_only()?;
                    marks.push(name.clone());
                }
                Some(name) if name.to_string().starts_with("on_") => {
                    let known = HANDLERS.map(|(known, _)| format!("`#[{known}]`")).join(", ");
                    return Err(Error::new_spanned(
                        &attribute,
                        format!("there is no event `{name}`; the handlers are {known}"),
                    ));
                }
                _ => kept.push(attribute),
            }
        }
        method.attrs = kept;

        let mut marks = marks.into_iter();
        let Some(mark) = marks.next() else { continue };
        if let Some(second) = marks.next() {
            return Err(Error::new(second.span(), "one method handles one kind of event"));
        }
        let taken = if mark == INIT {
            marked.init.replace(method.clone()).is_some()
        } else if mark == QUERY {
            marked.query.replace(method.clone()).is_some()
        } else {
            let taken = marked.handlers.iter().any(|(other, _)| *other == mark);
            marked.handlers.push((mark.clone(), method.clone()));
            taken
        };
        if taken {
            return Err(Error::new(mark.span(), format!("a module has one `#[{mark}]`; this is the second")));
        }
    }
    Ok(marked)
}

fn call_init(sdk: &Path, method: &ImplItemFn) -> Result<TokenStream> {
    plain(method, INIT)?;
    let name = &method.sig.ident;
    let inputs = &method.sig.inputs;
    let takes_self = matches!(inputs.first(), Some(FnArg::Receiver(_)));
    if takes_self || inputs.len() > 1 || matches!(method.sig.output, ReturnType::Default) {
        return Err(Error::new_spanned(
            &method.sig,
            "`#[init]` is `fn(config: Config) -> Result<Self>`, or the same without the argument",
        ));
    }
    let argument = inputs.first().and_then(|input| match input {
        FnArg::Typed(argument) => Some(&argument.ty),
        FnArg::Receiver(_) => None,
    });
    // Spanned at the type, so that one that is no configuration is reported there.
    let argument =
        argument.map(|ty| quote_spanned!(ty.span()=> <#ty as #sdk::__private::FromConfig>::from_config(config)?));
    let unused = inputs.is_empty().then(|| quote!(let _ = config;));
    let call = quote_spanned!(method.sig.output.span()=> ::core::result::Result::map_err(
        Self::#name(#argument),
        ::core::convert::Into::<#sdk::Error>::into,
    ));
    Ok(quote!(#unused #call))
}

/// The schema of what `#[init]` takes, in the component; nothing where that is the configuration as it is.
fn schema(sdk: &Path, this: &Type, method: &ImplItemFn) -> Option<TokenStream> {
    let Some(FnArg::Typed(argument)) = method.sig.inputs.first() else { return None };
    let Type::Path(path) = &*argument.ty else { return None };
    let name = &path.path.segments.last()?.ident;
    if name == "Config" {
        return None;
    }
    let ty: &Type = if name == "Self" { this } else { &argument.ty };
    Some(quote! {
        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code)]
        const _: () = {
            const TEXT: &str = <#ty as #sdk::__private::ConfigType>::SCHEMA;

            #[used]
            #[unsafe(link_section = "nexum:config")]
            static SCHEMA: [u8; TEXT.len()] = #sdk::__private::joined(&[TEXT]);
        };
    })
}

fn handler(sdk: &Path, kind: &Ident, method: &ImplItemFn) -> Result<TokenStream> {
    plain(method, &kind.to_string())?;
    let wanted = HANDLERS.iter().find(|(known, _)| kind == known).map_or("", |(_, event)| event);
    let shape = || {
        Error::new_spanned(
            &method.sig,
            format!("`#[{kind}]` is `fn(&mut self, event: {wanted})`, returning `()` or `Result<()>`"),
        )
    };
    let mut inputs = method.sig.inputs.iter();
    let argument = match (inputs.next(), inputs.next(), inputs.next()) {
        (Some(FnArg::Receiver(receiver)), Some(FnArg::Typed(argument)), None)
            if receiver.reference.is_some() && receiver.colon_token.is_none() =>
        {
            argument
        }
        _ => return Err(shape()),
    };

    let name = &method.sig.ident;
    let event: Type = syn::parse_str(&wanted.replace("Vec<Log>", "Log"))?;
    let event = if kind == "on_logs" { quote!(::std::vec::Vec<#sdk::Log>) } else { quote!(#sdk::#event) };
    // Spans of the user's own types, so that a wrong type is reported where it was written.
    let passed = quote_spanned!(argument.ty.span()=> event);
    let call = quote_spanned!(method.sig.output.span()=> #sdk::__private::HandlerResult::into_result(Self::#name(self, #passed)));
    Ok(quote! {
        fn #kind(&mut self, event: #event) -> #sdk::Result<()> {
            #call
        }
    })
}

fn query(sdk: &Path, method: &ImplItemFn) -> Result<TokenStream> {
    plain(method, QUERY)?;
    let mut inputs = method.sig.inputs.iter();
    let is_shared = |receiver: &syn::Receiver| receiver.reference.is_some() && receiver.mutability.is_none();
    let argument = match (inputs.next(), inputs.next(), inputs.next()) {
        (Some(FnArg::Receiver(receiver)), Some(FnArg::Typed(argument)), None) if is_shared(receiver) => argument,
        _ => {
            let message = "`#[query]` is `fn(&self, query: Query) -> Result<T>`: it changes nothing";
            return Err(Error::new_spanned(&method.sig, message));
        }
    };
    let name = &method.sig.ident;
    let passed = quote_spanned!(argument.ty.span()=> query);
    let call =
        quote_spanned!(method.sig.output.span()=> #sdk::__private::Answer::into_answer(Self::#name(self, #passed)));
    Ok(quote! {
        fn on_query(&self, query: #sdk::Query) -> #sdk::Result<::std::string::String> {
            #call
        }
    })
}

/// What the host can call: neither async nor generic.
fn plain(method: &ImplItemFn, mark: &str) -> Result<()> {
    if let Some(token) = &method.sig.asyncness {
        return Err(Error::new_spanned(
            token,
            format!("`#[{mark}]` is not async: host calls block, and `nexum_sdk::block_on` runs a future of alloy"),
        ));
    }
    if !method.sig.generics.params.is_empty() {
        return Err(Error::new_spanned(&method.sig.generics, format!("`#[{mark}]` cannot be generic")));
    }
    Ok(())
}

fn exports(sdk: &Path, this: &Type, answers_queries: bool) -> TokenStream {
    let component = format_ident!("NexumComponent");
    let (guest, query, export) = match answers_queries {
        false => (quote!(Guest), None, quote!(#sdk::__private::export!(#component with_types_in #sdk::bindings);)),
        true => (
            quote!(QueryGuest),
            Some(quote! {
                fn query(
                    method: ::std::string::String,
                    params: ::std::string::String,
                ) -> ::core::result::Result<::std::string::String, #sdk::__private::HostError> {
                    SLOT.with(|slot| slot.query(method, params))
                }
            }),
            quote!(#sdk::__private::export_with_query!(#component with_types_in #sdk::query_bindings);),
        ),
    };
    quote! {
        #[allow(unsafe_code)]
        const _: () = {
            ::std::thread_local! {
                static SLOT: #sdk::__private::Slot<#this> = const { #sdk::__private::Slot::empty() };
            }

            struct #component;

            impl #sdk::__private::#guest for #component {
                fn init(
                    config: #sdk::__private::RawConfig,
                ) -> ::core::result::Result<(), #sdk::__private::HostError> {
                    SLOT.with(|slot| slot.init(config))
                }

                fn on_event(
                    event: #sdk::__private::Event,
                ) -> ::core::result::Result<(), #sdk::__private::HostError> {
                    SLOT.with(|slot| slot.on_event(event))
                }

                #query
            }

            #export
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(item: TokenStream) -> String {
        module(TokenStream::new(), item).unwrap_err().to_string()
    }

    #[test]
    fn marks_are_taken_off_and_other_attributes_stay() {
        let out = module(
            TokenStream::new(),
            quote!(impl M {
                #[init]
                fn start(config: Config) -> Result<Self> {}
                #[on_block]
                #[inline]
                fn block(&mut self, block: Block) -> Result<()> {}
                fn free(&self) {}
            }),
        )
        .unwrap()
        .to_string();
        assert!(!out.contains("# [init]") && !out.contains("# [on_block]"), "{out}");
        assert!(out.contains("# [inline]") && out.contains("fn free"));
        assert!(out.contains("__private :: FromConfig > :: from_config (config)") && !out.contains("nexum:config"));
        assert!(out.contains("Self :: block (self , event)"));
    }

    #[test]
    fn the_schema_of_what_init_takes_is_in_the_component() {
        let expanded = |item| module(TokenStream::new(), item).unwrap().to_string();
        let typed = expanded(quote!(impl M { #[init] fn start(settings: my::Settings) -> Result<Self> {} }));
        assert!(typed.contains("nexum:config") && typed.contains("< my :: Settings as :: nexum_sdk"), "{typed}");
        let own = expanded(quote!(impl M { #[init] fn start(settings: Self) -> Result<Self> {} }));
        assert!(own.contains("= < M as :: nexum_sdk :: __private :: ConfigType > :: SCHEMA"), "{own}");
    }

    #[test]
    fn a_module_with_a_query_exports_it_and_one_without_does_not() {
        let expanded = |item| module(TokenStream::new(), item).unwrap().to_string();
        let with = expanded(quote!(impl M { #[query] fn ask(&self, query: Query) -> Result<u64> {} }));
        assert!(with.contains("fn on_query (& self , query : :: nexum_sdk :: Query)"), "{with}");
        assert!(with.contains("QueryGuest for") && with.contains("export_with_query !"), "{with}");
        let without = expanded(quote!(impl M {}));
        assert!(!without.contains("query"), "{without}");
    }

    #[test]
    fn without_init_the_default_is_used() {
        let out = module(TokenStream::new(), quote!(impl M {})).unwrap().to_string();
        assert!(out.contains("< M as :: core :: default :: Default > :: default ()"));
    }

    #[test]
    fn another_path_to_the_sdk() {
        let out = module(quote!(crate = my::sdk), quote!(impl M {})).unwrap().to_string();
        assert!(out.contains("impl my :: sdk :: Module for M") && !out.contains("nexum_sdk"));
        let error = module(quote!(name = "x"), quote!(impl M {})).unwrap_err().to_string();
        assert_eq!(error, "the only option is `crate = path::to::nexum_sdk`");
    }

    #[test]
    fn refusals() {
        for (item, message) in [
            (
                quote!(
                    struct M;
                ),
                "`#[module]` goes on the `impl` block of the struct that is the module",
            ),
            (quote!(impl Default for M {}), "`#[module]` goes on an inherent `impl` block, not on that of a trait"),
            (
                quote!(
                    impl<T> M<T> {}
                ),
                "a module cannot be generic: the host needs one type",
            ),
            (
                quote!(impl M { #[init] fn a() -> Result<Self> {} #[init] fn b() -> Result<Self> {} }),
                "a module has one `#[init]`; this is the second",
            ),
            (
                quote!(impl M { #[on_tick] fn a(&mut self, t: Tick) {} #[on_tick] fn b(&mut self, t: Tick) {} }),
                "a module has one `#[on_tick]`; this is the second",
            ),
            (
                quote!(impl M { #[on_blok] fn a(&mut self, b: Block) {} }),
                "there is no event `on_blok`; the handlers are `#[on_block]`, `#[on_logs]`, `#[on_tick]`, \
                 `#[on_message]`, `#[on_reorg]`, `#[on_outcome]`",
            ),
            (
                quote!(impl M { #[on_block] #[on_tick] fn a(&mut self, b: Block) {} }),
                "one method handles one kind of event",
            ),
            (
                quote!(impl M { #[on_block] fn a(b: Block) {} }),
                "`#[on_block]` is `fn(&mut self, event: Block)`, returning `()` or `Result<()>`",
            ),
            (
                quote!(impl M { #[on_logs] fn a(self, l: Vec<Log>) {} }),
                "`#[on_logs]` is `fn(&mut self, event: Vec<Log>)`, returning `()` or `Result<()>`",
            ),
            (
                quote!(impl M { #[init] fn a(&self) -> Result<Self> {} }),
                "`#[init]` is `fn(config: Config) -> Result<Self>`, or the same without the argument",
            ),
            (
                quote!(impl M { #[query] fn a(&mut self, q: Query) -> Result<u64> {} }),
                "`#[query]` is `fn(&self, query: Query) -> Result<T>`: it changes nothing",
            ),
            (
                quote!(impl M { #[query] fn a(&self, q: Query) -> Result<u64> {} #[query] fn b(&self) {} }),
                "a module has one `#[query]`; this is the second",
            ),
            (
                quote!(impl M { #[on_block] async fn a(&mut self, b: Block) {} }),
                "`#[on_block]` is not async: host calls block, and `nexum_sdk::block_on` runs a future of alloy",
            ),
        ] {
            assert_eq!(refusal(item), message);
        }
    }
}
