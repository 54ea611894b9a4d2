// SPDX-License-Identifier: GPL-2.0
/*
 * Stands in for hv_vmbus, so that Debian's unmodified hv_utils.ko has a bus in a guest that is not on Hyper-V.
 *
 * It exports the eight symbols that hv_utils.ko imports from hv_vmbus, and offers one channel, that of VSS. The host's
 * end of the channel is the device /dev/vmbus_host: a write is one packet of the host, a read one packet of the guest.
 * All above the ring buffers is real: the negotiation, the driver's state machine, its time-outs, its device.
 */
#include <linux/hyperv.h>
#include <linux/interrupt.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#define LARGEST_PACKET 8192

struct packet {
	struct list_head list;
	u32 length;
	u64 id;
	u8 data[];
};

static LIST_HEAD(to_guest);
static LIST_HEAD(to_host);
static DEFINE_SPINLOCK(lock);
static DECLARE_WAIT_QUEUE_HEAD(host_waits);
static struct hv_device *vss_device;
static struct vmbus_channel *channel;
static struct hv_driver *driver;

__u32 vmbus_proto_version = VERSION_WIN10;
EXPORT_SYMBOL_GPL(vmbus_proto_version);

static struct packet *take(struct list_head *queue)
{
	struct packet *first;

	spin_lock_bh(&lock);
	first = list_first_entry_or_null(queue, struct packet, list);
	if (first)
		list_del(&first->list);
	spin_unlock_bh(&lock);
	return first;
}

static void put(struct list_head *queue, struct packet *packet)
{
	spin_lock_bh(&lock);
	list_add_tail(&packet->list, queue);
	spin_unlock_bh(&lock);
}

static void on_event(unsigned long data)
{
	struct vmbus_channel *of = (struct vmbus_channel *)data;

	if (of->onchannel_callback)
		of->onchannel_callback(of->channel_callback_context);
}

int vmbus_open(struct vmbus_channel *of, u32 send_size, u32 receive_size, void *userdata, u32 userdata_length,
	       void (*callback)(void *), void *context)
{
	of->onchannel_callback = callback;
	of->channel_callback_context = context;
	tasklet_init(&of->callback_event, on_event, (unsigned long)of);
	of->state = CHANNEL_OPENED_STATE;
	return 0;
}
EXPORT_SYMBOL_GPL(vmbus_open);

void vmbus_close(struct vmbus_channel *of)
{
	tasklet_kill(&of->callback_event);
	of->onchannel_callback = NULL;
	of->state = CHANNEL_OPEN_STATE;
}
EXPORT_SYMBOL_GPL(vmbus_close);

int vmbus_sendpacket(struct vmbus_channel *of, void *buffer, u32 length, u64 id, enum vmbus_packet_type type, u32 flags)
{
	struct packet *packet = kmalloc(sizeof(*packet) + length, GFP_ATOMIC);

	if (!packet)
		return -ENOMEM;
	packet->length = length;
	packet->id = id;
	memcpy(packet->data, buffer, length);
	put(&to_host, packet);
	wake_up(&host_waits);
	return 0;
}
EXPORT_SYMBOL_GPL(vmbus_sendpacket);

int vmbus_recvpacket(struct vmbus_channel *of, void *buffer, u32 size, u32 *length, u64 *id)
{
	struct packet *packet = take(&to_guest);

	*length = 0;
	*id = 0;
	if (!packet)
		return 0;
	*length = min(packet->length, size);
	*id = packet->id;
	memcpy(buffer, packet->data, *length);
	kfree(packet);
	return 0;
}
EXPORT_SYMBOL_GPL(vmbus_recvpacket);

/* The first of our versions that is among the host's offers; 0: none. Both sides write major << 16 | minor. */
static int choose(const int *ours, int count, const struct ic_version *offers, int offered)
{
	int i, j;

	for (i = 0; i < count; i++)
		for (j = 0; j < offered; j++)
			if (ours[i] == ((offers[j].major << 16) | offers[j].minor))
				return ours[i];
	return 0;
}

bool vmbus_prep_negotiate_resp(struct icmsg_hdr *header, u8 *buffer, u32 length, const int *frameworks,
			       int framework_count, const int *services, int service_count, int *framework_version,
			       int *service_version)
{
	struct icmsg_negotiate *message = (struct icmsg_negotiate *)&buffer[ICMSG_HDR];
	struct ic_version *offers = message->icversion_data;
	int framework = choose(frameworks, framework_count, offers, message->icframe_vercnt);
	int service = choose(services, service_count, offers + message->icframe_vercnt, message->icmsg_vercnt);
	bool agreed = framework && service;

	message->icframe_vercnt = agreed;
	message->icmsg_vercnt = agreed;
	offers[0].major = framework >> 16;
	offers[0].minor = framework & 0xffff;
	offers[1].major = service >> 16;
	offers[1].minor = service & 0xffff;
	if (framework_version)
		*framework_version = framework;
	if (service_version)
		*service_version = service;
	return agreed;
}
EXPORT_SYMBOL_GPL(vmbus_prep_negotiate_resp);

int __vmbus_driver_register(struct hv_driver *of, struct module *owner, const char *name)
{
	static const guid_t vss = { .b = { 0x29, 0x2e, 0xfa, 0x35, 0x23, 0xea, 0x36, 0x42, 0x96, 0xae, 0x3a, 0x6e, 0xba,
					   0xcb, 0xa4, 0x40 } };
	const struct hv_vmbus_device_id *id;
	int result;

	for (id = of->id_table; !guid_is_null(&id->guid); id++) {
		if (!guid_equal(&id->guid, &vss))
			continue;
		result = of->probe(vss_device, id);
		if (!result)
			driver = of;
		return result;
	}
	return 0;
}
EXPORT_SYMBOL_GPL(__vmbus_driver_register);

void vmbus_driver_unregister(struct hv_driver *of)
{
	if (driver)
		driver->remove(vss_device);
	driver = NULL;
}
EXPORT_SYMBOL_GPL(vmbus_driver_unregister);

static ssize_t host_write(struct file *file, const char __user *buffer, size_t size, loff_t *offset)
{
	static u64 last_id;
	struct packet *packet;

	if (size > LARGEST_PACKET || !driver)
		return -EINVAL;
	packet = kmalloc(sizeof(*packet) + size, GFP_KERNEL);
	if (!packet)
		return -ENOMEM;
	if (copy_from_user(packet->data, buffer, size)) {
		kfree(packet);
		return -EFAULT;
	}
	packet->length = size;
	packet->id = ++last_id;
	put(&to_guest, packet);
	tasklet_schedule(&channel->callback_event);
	return size;
}

static ssize_t host_read(struct file *file, char __user *buffer, size_t size, loff_t *offset)
{
	struct packet *packet;
	ssize_t result;

	if (wait_event_interruptible(host_waits, !list_empty(&to_host)))
		return -EINTR;
	packet = take(&to_host);
	if (!packet)
		return -EAGAIN;
	result = min_t(size_t, size, packet->length);
	if (copy_to_user(buffer, packet->data, result))
		result = -EFAULT;
	kfree(packet);
	return result;
}

static __poll_t host_poll(struct file *file, poll_table *wait)
{
	poll_wait(file, &host_waits, wait);
	return EPOLLOUT | (list_empty(&to_host) ? 0 : EPOLLIN | EPOLLRDNORM);
}

static const struct file_operations host_operations = {
	.owner = THIS_MODULE,
	.read = host_read,
	.write = host_write,
	.poll = host_poll,
};

static struct miscdevice host_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "vmbus_host",
	.fops = &host_operations,
};

static int __init stand_in_init(void)
{
	channel = kzalloc(sizeof(*channel), GFP_KERNEL);
	vss_device = kzalloc(sizeof(*vss_device), GFP_KERNEL);
	if (!channel || !vss_device)
		return -ENOMEM;
	device_initialize(&vss_device->device);
	dev_set_name(&vss_device->device, "vss");
	vss_device->channel = channel;
	channel->device_obj = vss_device;
	return misc_register(&host_device);
}

/* The device and its channel are left to the machine, which does not outlive a test. */
static void __exit stand_in_exit(void)
{
	misc_deregister(&host_device);
}

module_init(stand_in_init);
module_exit(stand_in_exit);
MODULE_DESCRIPTION("Stands in for hv_vmbus with one VSS channel, for tests");
MODULE_LICENSE("GPL");
