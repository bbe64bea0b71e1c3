"""Addresses of the machines' pages. Fragments are the same addresses with ``?part=``."""

from django.urls import include, path

from vms.consoles import views as consoles
from vms.views import (
    access,
    batches,
    clone,
    create,
    dashboard,
    frame,
    machine,
    machines,
    recycle_bin,
    snapshots,
    templates,
)

urlpatterns = [
    path("", include("vms.images.urls")),
    path("", dashboard.show, name="dashboard"),
    path("jump/", frame.jump, name="jump"),
    path("frame/tray/", frame.tray, name="frame_tray"),
    path("machines/", machines.show, name="vm_list"),
    path("machines/bulk/", machines.bulk, name="vm_bulk"),
    path("machines/new/", create.show, name="vm_create"),
    path("machines/new/preview/", create.preview, name="vm_create_preview"),
    path("templates/", templates.show, name="template_list"),
    path("templates/<int:template_id>/public/", templates.publish, name="template_public"),
    path(
        "templates/versions/<int:version_id>/<slug:word>/", templates.act, name="template_version"
    ),
    path("machines/<uuid:uuid>/template/", templates.make, name="vm_template"),
    path("machines/batches/<uuid:batch>/", batches.show, name="vm_batch"),
    path("machines/batches/<uuid:batch>/retry/", batches.retry, name="vm_batch_retry"),
    path("machines/bin/", recycle_bin.show, name="vm_bin"),
    path("machines/bin/days/", recycle_bin.set_days, name="vm_bin_days"),
    path("machines/bin/empty/", recycle_bin.empty, name="vm_bin_empty"),
    path("machines/bin/<uuid:uuid>/", recycle_bin.ask, name="vm_bin_ask"),
    path("machines/bin/<uuid:uuid>/restore/", recycle_bin.restore, name="vm_bin_restore"),
    path("machines/bin/<uuid:uuid>/purge/", recycle_bin.purge, name="vm_bin_purge"),
    path("machines/<uuid:uuid>/", machine.show, name="vm_detail"),
    path("machines/<uuid:uuid>/console/", consoles.vm_console, name="vm_console"),
    path("machines/<uuid:uuid>/screen/", consoles.vm_screen, name="vm_screen"),
    path("machines/<uuid:uuid>/edit/", machine.edit, name="vm_edit"),
    path("machines/<uuid:uuid>/retry/", machine.retry, name="vm_retry"),
    path("machines/<uuid:uuid>/eject/", machine.eject, name="vm_eject"),
    path("machines/<uuid:uuid>/cancel/", machine.cancel, name="vm_cancel"),
    path("machines/<uuid:uuid>/clone/", clone.show, name="vm_clone"),
    path("machines/<uuid:uuid>/snapshots/", snapshots.dialog, name="vm_snapshot_dialog"),
    path("machines/<uuid:uuid>/snapshots/take/", snapshots.take, name="vm_snapshot_take"),
    path(
        "machines/<uuid:uuid>/snapshots/<int:snapshot_id>/<slug:word>/",
        snapshots.act,
        name="vm_snapshot_act",
    ),
    path("machines/<uuid:uuid>/access/", access.show, name="vm_access"),
    path("machines/<uuid:uuid>/access/share/", access.share, name="vm_share"),
    path("machines/<uuid:uuid>/access/<int:share_id>/remove/", access.unshare, name="vm_unshare"),
    path("machines/<uuid:uuid>/access/transfer/", access.transfer, name="vm_transfer"),
    path("machines/<uuid:uuid>/access/withdraw/", access.withdraw, name="vm_withdraw_offer"),
    path("offers/", access.offers, name="machine_offers"),
    path("offers/<int:offer_id>/accept/", access.accept, name="machine_offer_accept"),
    path("offers/<int:offer_id>/decline/", access.decline, name="machine_offer_decline"),
    path("machines/<uuid:uuid>/<slug:word>/", machine.act, name="vm_action"),
]
