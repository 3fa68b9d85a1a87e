"""
A mixin for the admin: what it shows of a model's cache, and how cached rows
are forgotten there.

(Changes and actions of the admin invalidate without it.)
"""

from django.contrib import admin, messages
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.db import connections, router
from django.http import Http404, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from .checks import check_admin, lookup_change, queryset_classes
from .coherence import protocol as coherence
from .environment.aliases import cache_faults
from .lookups.rows import layout
from .query import CachedGetOrCreateMixin
from .signals import Reason
from .writes import invalidation

REASONS = {
    Reason.NO_ROW: gettext_lazy("nobody has asked for it lately, or it was dropped"),
    Reason.LOCKED: gettext_lazy("somebody is writing it, or was a moment ago"),
    Reason.STAMP: gettext_lazy("it was written since it was put there"),
    Reason.FIELDS: gettext_lazy("another release of the code has put it there"),
    Reason.ERROR: gettext_lazy("the cache failed, or holds what is unreadable"),
    Reason.NOT_CACHEABLE: gettext_lazy("its primary key has no canonical form"),
}


class CachedModelAdminMixin:
    """
    Show whether a model's rows are in the cache, and let those who may change
    them forget them: an action, and a button on either page.

    Goes before ModelAdmin. The templates of these pages are extended, whoever
    has chosen them.
    """

    cache_state_template = "getorcreateplus/admin/cache_state.html"

    def __init__(self, model, admin_site):
        super().__init__(model, admin_site)
        # A subclass sets ``actions`` anew, to None where it wants none.
        name = "forget_cached_rows"
        if self.actions is not None and name not in self.actions:
            self.actions = [*self.actions, name]

    def check(self, **kwargs):
        return [*super().check(**kwargs), *check_admin(self)]

    @admin.action(
        description=gettext_lazy("Forget cached rows"),
        permissions=["change"],
    )
    def forget_cached_rows(self, request, queryset):
        count = queryset.count()
        invalidation.invalidate(queryset)
        message = ngettext(
            "%(count)d row is no longer in the cache.",
            "%(count)d rows are no longer in the cache.",
            count,
        )
        self.message_user(request, message % {"count": count}, messages.SUCCESS)

    # Pages

    def changelist_view(self, request, extra_context=None):
        response = super().changelist_view(request, extra_context)
        context = getattr(response, "context_data", None) or {}
        if "cl" in context and not context["cl"].is_popup:
            self._show_cache_state(
                request,
                response,
                caches_in_words,
                may_forget=self.has_change_permission(request),
                button=_("Forget all cached rows"),
                url=self._reverse("forget_all"),
            )
        return response

    def render_change_form(self, request, context, *args, **kwargs):
        response = super().render_change_form(request, context, *args, **kwargs)
        context = getattr(response, "context_data", None) or {}
        obj = context.get("original")
        if obj is not None and not context.get("is_popup"):
            self._show_cache_state(
                request,
                response,
                lambda watch, using: row_in_words(watch, using, obj),
                may_forget=self.has_change_permission(request, obj),
                button=_("Forget the cached row"),
                url=self._reverse("forget", quote(obj.pk)),
            )
        return response

    def _show_cache_state(self, request, response, words, *, url, **context):
        invalidation.examine()
        watch = invalidation.watched.get(self.opts.concrete_model)
        if watch is None:
            return  # getorcreateplus.E016
        # Where get_or_create() looks, which is no replica.
        using = self.get_queryset(request)._db or router.db_for_write(self.model)
        response.context_data["getorcreateplus"] = context | {
            "base": response.resolve_template(response.template_name),
            "words": [*words(watch, using), *changes_in_words(watch.model)],
            "url": add_preserved_filters(response.context_data, url),
        }
        response.template_name = self.cache_state_template

    # Buttons

    def get_urls(self):
        wrap = self.admin_site.admin_view  # with csrf_protect()
        return [
            path(
                "forget-cached-rows/",
                wrap(self.forget_all_view),
                name=self._url_name("forget_all"),
            ),
            path(
                "<path:object_id>/forget-cached-row/",
                wrap(self.forget_view),
                name=self._url_name("forget"),
            ),
            *super().get_urls(),
        ]

    def forget_all_view(self, request):
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self.has_change_permission(request):
            raise PermissionDenied
        invalidation.invalidate(self.model)
        message = _("No %(name)s is in the cache any longer.")
        return self._answer(request, message % {"name": self.opts.verbose_name})

    def forget_view(self, request, object_id):
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        obj = self.get_object(request, unquote(object_id))
        if not self.has_change_permission(request, obj):
            raise PermissionDenied
        if obj is None:
            raise Http404(f"There is no {self.opts.label} {object_id}.")
        invalidation.invalidate(obj)
        message = _("“%(obj)s” is not in the cache any longer.") % {"obj": obj}
        return self._answer(request, message, quote(obj.pk))

    def _answer(self, request, message, *args):
        self.message_user(request, message, messages.SUCCESS)
        url = self._reverse("change" if args else "changelist", *args)
        filters = self.get_preserved_filters(request)
        context = {"opts": self.opts, "preserved_filters": filters}
        return HttpResponseRedirect(add_preserved_filters(context, url))

    def _url_name(self, page):
        return f"{self.opts.app_label}_{self.opts.model_name}_{page}"

    def _reverse(self, page, *args):
        name = f"admin:{self._url_name(page)}"
        return reverse(name, args=args, current_app=self.admin_site.name)


# In words


def caches_in_words(watch, using):
    """Yield what there is to say of a model's caches."""
    for fault in watch.faults():
        yield _("Not all is cached: %(fault)s") % {"fault": fault}
    rows = {region.store.alias: region for region in watch.all_regions(using)}
    for alias, region in rows.items():
        yield _("Rows are cached in “%(alias)s” (%(answer)s), %(time)s.") % {
            "alias": alias,
            "answer": answer_in_words(alias),
            "time": time_in_words(region.seconds),
        }
    usable = {alias for alias in watch.key_cache_aliases if not cache_faults[alias]}
    for alias in sorted(usable - set(rows)):
        yield _("Lookups are cached in “%(alias)s” (%(answer)s).") % {
            "alias": alias,
            "answer": answer_in_words(alias),
        }
    for timeout in sorted(local_timeouts(watch.model), key=str):
        yield _("Each process keeps rows in its memory, %(time)s.") % {
            "time": time_in_words(timeout)
        }


def row_in_words(watch, using, obj):
    """Yield of each of the model's caches whether the row is there."""
    for region in watch.all_regions(using):
        reason = why_not_cached(region, obj)
        if reason is None:
            yield _("In the cache “%(alias)s”: yes.") % {"alias": region.store.alias}
        else:
            yield _("In the cache “%(alias)s”: no, %(reason)s.") % {
                "alias": region.store.alias,
                "reason": REASONS[reason],
            }


def changes_in_words(model):
    """Yield which managers of a model do not use its cache, and why."""
    for name in queryset_classes(model, CachedGetOrCreateMixin):
        change = lookup_change(model._meta.managers_map[name])
        if change is not None:
            yield _("Lookups by “%(manager)s” ask the database: %(change)s.") % {
                "manager": name,
                "change": change.what,
            }


def time_in_words(timeout):
    if timeout is None:
        return _("for ever")
    return ngettext("for %(n)s second", "for %(n)s seconds", timeout) % {"n": timeout}


def answer_in_words(alias):
    try:
        coherence.stores[alias].get_many(["getorcreateplus"])
    except (coherence.Unavailable, coherence.Garbage):
        return _("does not answer: the database is asked")
    return _("answers")


def local_timeouts(model):
    """Return those of the model's querysets that are not off."""
    found = {
        getattr(invalidation.queryset_class_of(manager), "local_timeout", 0)
        for each in (model, *model.__subclasses__())
        if each._meta.concrete_model is model
        for manager in each._meta.managers
    }
    return found - {0}


def why_not_cached(region, obj):
    """Return the Reason why the row would be no hit, None where it is one."""
    model = region.model
    pk = invalidation.pk_of(obj, model)
    if pk is None:
        return Reason.NOT_CACHEABLE
    fingerprint = layout(model).fingerprint(connections[region.using])
    read = coherence.Read(region, region.store, None, fingerprint, lambda values: True)
    read.pk, read.asked = pk, True
    # Not ask(), which adds what is absent.
    keys = [region.payload(pk), region.version(pk), region.epoch]
    try:
        entries = region.store.get_many(keys)
    except (coherence.Unavailable, coherence.Garbage):
        return Reason.ERROR
    read.seen = tuple(map(entries.get, keys))
    return None if read._is_hit(*read.seen) else read.reason(read)
