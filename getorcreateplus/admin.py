"""
A mixin for the admin. Its pages show the state of a model's cache, and have
buttons that invalidate cached rows.

(Changes and actions of the admin invalidate without it.)
"""

from django.contrib import admin, messages
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.db import router
from django.http import Http404, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from .checks import check_admin
from .diagnosis.looking import answers, why_not_cached
from .diagnosis.managers import lookup_change, queryset_classes
from .diagnosis.reasons import MISSES
from .environment.aliases import cache_faults
from .query import CachedGetOrCreateMixin
from .writes.invalidate import invalidate
from .writes.registry import cached_models, examine, queryset_class_of
from .writes.tables import pk_of

NO_CANONICAL_KEY = gettext_lazy("Its primary key has no canonical form.")


class CachedModelAdminMixin:
    """
    Show whether a model's rows are in the cache. Users who may change the rows
    may also invalidate them: with an action, and with a button on each page.

    It goes before ModelAdmin. It extends the templates of these pages, also
    those that another mixin or the project has chosen.
    """

    cache_state_template = "getorcreateplus/admin/cache_state.html"

    def __init__(self, model, admin_site):
        super().__init__(model, admin_site)
        # A subclass may have actions of its own. None means no actions.
        name = "invalidate_cached_rows"
        if self.actions is not None and name not in self.actions:
            self.actions = [*self.actions, name]

    def check(self, **kwargs):
        return [*super().check(**kwargs), *check_admin(self)]

    @admin.action(
        description=gettext_lazy("Invalidate cached rows"),
        permissions=["change"],
    )
    def invalidate_cached_rows(self, request, queryset):
        count = queryset.count()
        invalidate(queryset)
        message = ngettext(
            "%(count)d cached row was invalidated.",
            "%(count)d cached rows were invalidated.",
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
                may_invalidate=self.has_change_permission(request),
                button=_("Invalidate all cached rows"),
                url=self._reverse("invalidate_all"),
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
                lambda cached_model, using: row_in_words(cached_model, using, obj),
                may_invalidate=self.has_change_permission(request, obj),
                button=_("Invalidate cached row"),
                url=self._reverse("invalidate", quote(obj.pk)),
            )
        return response

    def _show_cache_state(self, request, response, words, *, url, **context):
        examine()
        cached_model = cached_models.get(self.opts.concrete_model)
        if cached_model is None:
            return  # getorcreateplus.E016
        # get_or_create() uses this database, not a replica.
        using = self.get_queryset(request)._db or router.db_for_write(self.model)
        response.context_data["getorcreateplus"] = context | {
            "base": response.resolve_template(response.template_name),
            "words": [
                *words(cached_model, using),
                *changes_in_words(cached_model.model),
            ],
            "url": add_preserved_filters(response.context_data, url),
        }
        response.template_name = self.cache_state_template

    # Buttons

    def get_urls(self):
        wrap = self.admin_site.admin_view  # with csrf_protect()
        return [
            path(
                "invalidate-cached-rows/",
                wrap(self.invalidate_all_view),
                name=self._url_name("invalidate_all"),
            ),
            path(
                "<path:object_id>/invalidate-cached-row/",
                wrap(self.invalidate_view),
                name=self._url_name("invalidate"),
            ),
            *super().get_urls(),
        ]

    def invalidate_all_view(self, request):
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self.has_change_permission(request):
            raise PermissionDenied
        invalidate(self.model)
        message = _("All cached rows of “%(name)s” were invalidated.")
        return self._answer(request, message % {"name": self.opts.verbose_name})

    def invalidate_view(self, request, object_id):
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        obj = self.get_object(request, unquote(object_id))
        if not self.has_change_permission(request, obj):
            raise PermissionDenied
        if obj is None:
            raise Http404(f"There is no {self.opts.label} {object_id}.")
        invalidate(obj)
        message = _("The cached row of “%(obj)s” was invalidated.") % {"obj": obj}
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


def caches_in_words(cached_model, using):
    """Yield sentences about a model's caches."""
    for fault in cached_model.faults():
        yield _("Not everything is cached: %(fault)s") % {"fault": fault}
    rows = {region.client.alias: region for region in cached_model.all_regions(using)}
    for alias, region in rows.items():
        yield _("Rows are cached in “%(alias)s” (%(answer)s), %(time)s.") % {
            "alias": alias,
            "answer": answer_in_words(alias),
            "time": time_in_words(region.seconds),
        }
    usable = {
        alias for alias in cached_model.key_cache_aliases if not cache_faults[alias]
    }
    for alias in sorted(usable - set(rows)):
        yield _("Lookups are cached in “%(alias)s” (%(answer)s).") % {
            "alias": alias,
            "answer": answer_in_words(alias),
        }
    for timeout in sorted(local_timeouts(cached_model.model), key=str):
        yield _("Each process keeps rows in its memory, %(time)s.") % {
            "time": time_in_words(timeout)
        }


def row_in_words(cached_model, using, obj):
    """Yield a sentence for each of the model's caches: is the row there?"""
    pk = pk_of(obj, cached_model.model)
    for region in cached_model.all_regions(using):
        reason = None if pk is None else why_not_cached(region, pk)
        if pk is not None and reason is None:
            yield _("In the cache “%(alias)s”: yes.") % {"alias": region.client.alias}
        else:
            yield _("In the cache “%(alias)s”: no. %(reason)s") % {
                "alias": region.client.alias,
                "reason": NO_CANONICAL_KEY
                if reason is None
                else _(MISSES[reason].sentence),
            }


def changes_in_words(model):
    """Yield a sentence for each manager that does not use the cache."""
    for name in queryset_classes(model, CachedGetOrCreateMixin):
        change = lookup_change(model._meta.managers_map[name])
        if change is not None:
            yield _("Lookups with “%(manager)s” query the database: %(change)s.") % {
                "manager": name,
                "change": change.what,
            }


def time_in_words(timeout):
    if timeout is None:
        return _("forever")
    return ngettext("for %(n)s second", "for %(n)s seconds", timeout) % {"n": timeout}


def answer_in_words(alias):
    if answers(alias):
        return _("answers")
    return _("does not answer: lookups query the database")


def local_timeouts(model):
    """Return the local_timeouts of the model's querysets, except 0 (off)."""
    found = {
        getattr(queryset_class_of(manager), "local_timeout", 0)
        for each in (model, *model.__subclasses__())
        if each._meta.concrete_model is model
        for manager in each._meta.managers
    }
    return found - {0}
