"""What the codes of images, seeds, names and passwords say: what, why, what to do next."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from accounts.messages import register

register(
    {
        # --- names of machines, hosts and users
        "name.empty": _("Give it a name."),
        "name.too_long": _("This name is too long: at most %(name_limit)s characters."),
        "name.uppercase": _("A name has small letters only: use “%(name_better)s”."),
        "name.hyphen_at_edge": _("A name begins and ends with a letter or a digit."),
        "name.character": _(
            "“%(name_character)s” cannot be in a name: use small letters a–z, digits and hyphens."
        ),
        "hostname.empty": _("Give a host name, or leave it out to use the machine's name."),
        "hostname.too_long": _(
            "This host name is too long: at most %(hostname_limit)s characters."
        ),
        "hostname.uppercase": _("A host name has small letters only: use “%(hostname_better)s”."),
        "hostname.hyphen_at_edge": _(
            "Each part of a host name begins and ends with a letter or a digit."
        ),
        "hostname.character": _(
            "“%(hostname_character)s” cannot be in a host name: use small letters a–z, digits, "
            "hyphens, and dots between the parts."
        ),
        "username.empty": _("Give the name of the first user."),
        "username.characters": _(
            "A user name begins with a small letter and goes on with small letters, digits, "
            "hyphens and underscores, at most 32."
        ),
        "username.system": _(
            "“%(username)s” is an account that the guest has for itself. Choose another name; "
            "the first user may become root with sudo."
        ),
        # --- first-boot passwords
        "password.short": _("A password has at least %(password_minimum)s characters."),
        "password.long": _("A password has at most %(password_maximum)s characters."),
        "password.characters": _(
            "Use letters, digits and signs that every keyboard has: the guest's console takes no "
            "others in a password."
        ),
        # --- appended cloud-config
        "cloudconfig.too_big": _(
            "This is %(size_kib)s KiB; at most %(limit_kib)s KiB can be appended. Let the machine "
            "fetch the rest with runcmd."
        ),
        "cloudconfig.not_text": _("This is no valid text. Paste it again."),
        "cloudconfig.characters": _(
            "There is a control character that YAML does not allow. Remove it."
        ),
        "cloudconfig.kind": _(
            "Only #cloud-config can be appended, and this begins with “%(kind)s”. Put scripts "
            "under runcmd, files under write_files."
        ),
        "cloudconfig.yaml": _(
            "Line %(line)s is no valid YAML: %(problem)s. Check the indentation."
        ),
        "cloudconfig.not_a_mapping": _(
            "cloud-config is a list of keys with values, like “packages: [vim]”. This is none."
        ),
        "cloudconfig.alias": _(
            "Line %(line)s: anchors and aliases (& and *) are not taken. Write the value out."
        ),
        "cloudconfig.documents": _(
            "Line %(line)s begins a second YAML document. Put everything into one."
        ),
        "cloudconfig.depth": _("Line %(line)s: this is nested more than %(depth)s levels deep."),
        "cloudconfig.literal": _(
            "There is a date or number that cannot exist. Put it in quotes if it is meant as text."
        ),
        "cloudconfig.twice": _("Line %(line)s: the key “%(key)s” is there already. Join the two."),
        "cloudconfig.key": _("Line %(line)s: the key “%(key)s” must be text. Put it in quotes."),
        "cloudconfig.quote": _(
            "Line %(line)s, %(path)s: YAML reads this as a date or as binary data. Put it in "
            "quotes."
        ),
        "cloudconfig.hostname": _(
            "Line %(line)s: the host name is set by the form, not by “%(key)s”. Remove this line."
        ),
        "cloudconfig.user": _(
            "Line %(line)s: the first user is set by the form. Add others under “users”."
        ),
        "cloudconfig.password": _(
            "Line %(line)s: choose the password in the form, where it is hashed before it is "
            "written. Remove this line."
        ),
        "cloudconfig.mistyped_key": _(
            "Line %(line)s: cloud-init knows no “%(key)s”. Did you mean “%(better)s”?"
        ),
        "cloudconfig.unknown_key": _("Line %(line)s: cloud-init knows no “%(key)s”. Remove it."),
        "cloudconfig.unknown_key_in": _(
            "Line %(line)s: cloud-init knows no “%(key)s” in %(path)s. Remove it."
        ),
        "cloudconfig.missing_key": _("Line %(line)s: %(path)s needs “%(key)s”."),
        "cloudconfig.wants_text": _(
            "Line %(line)s: %(path)s must be text. Put the value in quotes."
        ),
        "cloudconfig.wants_list": _(
            "Line %(line)s: %(path)s must be a list: one item a line, each after “- ”."
        ),
        "cloudconfig.wants_mapping": _(
            "Line %(line)s: %(path)s must be keys with values, indented below it."
        ),
        "cloudconfig.wants_yes_no": _("Line %(line)s: %(path)s must be true or false."),
        "cloudconfig.wants_number": _("Line %(line)s: %(path)s must be a number."),
        "cloudconfig.choice": _("Line %(line)s: %(path)s must be one of %(choices)s."),
        "cloudconfig.empty": _("Line %(line)s: %(path)s must not be empty."),
        "cloudconfig.value": _(
            "Line %(line)s: cloud-init does not take this value for %(path)s. Its documentation "
            "says which it takes."
        ),
        "cloudconfig.user_twice": _(
            "Line %(line)s: the form makes the user “%(user)s” already. Remove it here, or choose "
            "another first user."
        ),
    }
)

register(
    {
        # --- why a file is refused
        "image.empty_file": _("The file is empty. Choose another one."),
        "image.vmdk_refused": _(
            "This VMDK is not a disk in one file (monolithicSparse or streamOptimized), or it is "
            "broken. Export the disk again as one file, or convert it to qcow2."
        ),
        "image.ova_refused": _(
            "This archive is not an OVA as it should be: a description (.ovf) and its disk, as "
            "plain files without folders."
        ),
        "image.ova_disks": _(
            "This OVA has %(count)s disks; one with a single disk can be imported. Unpack it and "
            "import its disks one by one."
        ),
        "image.ova_disk_missing": _("The disk that this OVA describes is not in it."),
        "image.ova_disk_format": _(
            "The disk of this OVA is neither a VMDK nor a VDI, or it is compressed. Unpack it and "
            "convert the disk to qcow2."
        ),
        "image.convert_failed": _("The disk could not be converted: the file is damaged."),
        "image.web_page": _(
            "The address gave a web page, not a disk. Copy the link of the image itself."
        ),
        "image.compressed": _(
            "The file is packed (%(kind)s). Unpack it first and give the disk that is in it."
        ),
        "image.not_a_disk": _(
            "This is neither a qcow2 image nor a raw disk with a boot sector, so no machine could "
            "start from it."
        ),
        "image.format_refused": _(
            "Images in the format %(format)s are not taken. Convert it with “qemu-img convert -O "
            "qcow2” and give the result."
        ),
        "image.format_differs": _(
            "By its name the file is %(declared)s, but it is %(found)s inside. Give it its right "
            "name if that is meant."
        ),
        "image.ambiguous": _(
            "The file looks like several formats at once (%(formats)s). Such files are made to "
            "deceive, so it was refused."
        ),
        "image.backing_file": _(
            "The image is only a difference to another file (a backing file). Make a whole one "
            "with “qemu-img convert -O qcow2”."
        ),
        "image.data_file": _(
            "The image keeps its data in another file. Make a whole one with “qemu-img convert -O "
            "qcow2”."
        ),
        "image.unknown_features": _(
            "The image uses features of qcow2 that not every QEMU knows. Convert it with “qemu-img "
            "convert -O qcow2”."
        ),
        "image.encrypted": _("The image is encrypted, so no machine could start from it."),
        "image.corrupt": _("The image is damaged. Fetch it again from where it was made."),
        "image.truncated": _(
            "A part of the image is missing: it was probably cut off on its way. Fetch it again."
        ),
        "image.check_failed": _("qemu-img found the image damaged. Fetch it again."),
        "image.virtual_too_big": _(
            "The disk in the image is %(virtual_gib)s GiB large; this site takes up to "
            "%(limit_gib)s GiB (KVMWEB_IMAGE_MAX_VIRTUAL_GIB)."
        ),
        "image.file_too_big": _(
            "The file is larger than %(limit_gib)s GiB, the most that this site takes "
            "(KVMWEB_IMAGE_MAX_FILE_GIB)."
        ),
        "image.qemu_img_missing": _(
            "qemu-img is not installed on the machine that runs the worker. Install the package "
            "qemu-utils there."
        ),
        "image.no_space": _(
            "The site's disk has no room for it: %(needed_gib)s GiB are needed, %(free_gib)s GiB "
            "are free. Delete images or enlarge the disk."
        ),
        # --- where it may come from
        "image.url_invalid": _("This is no valid address. Copy it again from the browser."),
        "image.url_scheme": _("The address must begin with https:// and name a server."),
        "image.url_credentials": _(
            "The address has a user name or password in it. Use one that needs none."
        ),
        "image.url_not_https": _(
            "Images are only fetched by https. If %(host)s is trusted, an admin can allow it in "
            "KVMWEB_IMAGE_ALLOWED_HOSTS."
        ),
        "image.url_private": _(
            "%(host)s is in a private network, from which nothing is fetched. If it is trusted, an "
            "admin can allow it in KVMWEB_IMAGE_ALLOWED_HOSTS."
        ),
        "image.url_unresolved": _("There is no server “%(host)s”. Check the address."),
        "image.unreachable": _("%(host)s cannot be reached now. Check the address, or try later."),
        "image.tls_failed": _(
            "The certificate of %(host)s is not valid, so nothing was fetched from it."
        ),
        "image.redirects": _("The address leads from one to the next more than %(limit)s times."),
        "image.http_status": _(
            "%(host)s answered with status %(status)s. Check the address: the file may have moved."
        ),
        "image.download_timeout": _("%(host)s stopped answering. Try again later."),
        "image.download_broken": _("The connection to %(host)s broke off. Try again."),
        # --- checksums
        "image.checksum_format": _(
            "A checksum is SHA-256 (64 digits 0–9, a–f) or SHA-512 (128 digits)."
        ),
        "image.checksum_mismatch": _(
            "The checksum is not the expected one (wanted %(wanted)s…, got %(got)s…): the file was "
            "changed or damaged on its way, and was removed."
        ),
        "image.checksum_not_listed": _(
            "The vendor's checksum file does not list “%(file_name)s”. Paste the checksum instead."
        ),
        # --- uploads
        "image.upload_offset": _("Another piece was expected. Go on at byte %(offset)s."),
        "image.upload_busy": _(
            "Another window is sending this file. Close one of them and go on here."
        ),
        "image.upload_chunk": _("A piece of an upload has 1 byte to %(limit_mib)s MiB."),
        "image.upload_too_long": _(
            "More came than was announced (%(total)s bytes). Start the upload again."
        ),
        "image.upload_cut_off": _("The piece did not arrive whole. Send it again."),
        "image.upload_lost": _("The uploaded file is gone. Upload it again."),
        "image.upload_again": _("“%(name)s” was an upload. Send the file again as a new image."),
        "image.upload_abandoned": _("Nothing came for a day, so the upload was given up."),
        "image.not_uploading": _("“%(name)s” takes no more pieces: its upload is over."),
        # --- what people do with images
        "image.invalid": _("Some of the input is not right. Correct the marked fields."),
        "image.name_invalid": _("Give the image a name of 1 to 64 characters."),
        "image.name_taken": _("There is an image “%(name)s” already. Choose another name."),
        "image.os_id_invalid": _(
            "The OS is given by its short name, as “osinfo-query os” lists it: debian12, "
            "ubuntu24.04."
        ),
        "image.icon_unknown": _("There is no such icon."),
        "image.text_invalid": _("This has at most %(image_text_limit)s characters, in one line."),
        "image.size_invalid": _("This size is out of range."),
        "image.catalogue_unknown": _("The catalogue has no such image."),
        "image.source_missing": _(
            "Give the address of the image (url), or a disk in a storage pool (pool and volume)."
        ),
        "image.volume_unknown": _(
            "No such disk is listed in this storage pool. Look through the pools again and choose "
            "one of the list."
        ),
        "image.volume_in_use": _(
            "“%(volume)s” is used by “%(by)s” on its host, so a copy could be torn. Choose a disk "
            "that nothing uses; if that has changed, look through the pools again."
        ),
        "image.volume_gone": _(
            "“%(volume)s” is no longer in its storage pool. Look through the pools again."
        ),
        "image.wrong_state": _("“%(name)s” is not in a state in which this can be done."),
        "image.being_deleted": _("“%(name)s” is being deleted."),
        "image.busy": _("Something is being done with “%(name)s”. Wait until it is over."),
        "image.in_use": _(
            "Machines stand on the image “%(name)s”, %(count)s in all: %(machines)s. Delete them "
            "first, or retire the image: then no new ones can be made from it."
        ),
        "image.not_failed": _("“%(name)s” has not failed, so there is nothing to fetch again."),
        "image.not_found": _("There is no such image, or it is not published."),
        "image.gone": _("The image “%(name)s” has been deleted meanwhile."),
        "image.file_missing": _(
            "The site's file of “%(name)s” is missing. Add the image again; hosts that have a copy "
            "keep working."
        ),
        "image.copied_already": _("“%(name)s” is on the host already, or is being copied."),
        "image.host_away": _("Waits for host %(host)s, which cannot be reached."),
        "image.fetch_cancelled": _("Fetching it was cancelled."),
        "image.fetch_lost": _("Its job is gone. Fetch it again."),
        # --- flavors
        "flavor.not_found": _("There is no such size."),
        "flavor.name_invalid": _("Give the size a name of 1 to 32 characters."),
        "flavor.name_taken": _("There is a size “%(name)s” already. Choose another name."),
        "flavor.vcpus": _("A size has 1 to %(flavor_vcpus_limit)s vCPUs."),
        "flavor.memory": _(
            "A size has %(flavor_memory_minimum)s to %(flavor_memory_limit)s MiB of memory."
        ),
        "flavor.disk": _("A size has a disk of 1 to %(flavor_disk_limit)s GiB."),
        "flavor.description": _("A description has at most 128 characters, in one line."),
        "flavor.invalid": _("Some of the input is not right. Correct the marked fields."),
    }
)
